-- Clients of `nimbert serve`, by wrk: wrk -t1 -c32 -d12 -s serve.lua http://ADDRESS -- TEXTS.txt
--
-- Each request asks /predict for a random one of the texts, which stand one a line. Prints one JSON object.

local texts = {}

local function escaped(text)
  return (text:gsub("\\", "\\\\"):gsub('"', '\\"'):gsub("%c", " "))
end

function init(arguments)
  for text in io.lines(arguments[1]) do
    texts[#texts + 1] = escaped(text)
  end
  math.randomseed(0)
end

function request()
  local body = '{"inputs":"' .. texts[math.random(#texts)] .. '"}'
  return wrk.format("POST", "/predict", { ["Content-Type"] = "application/json" }, body)
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local figures = '{"requests_per_second": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d}\n'
  local rate = summary.requests / (summary.duration / 1e6)
  io.write(figures:format(rate, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
