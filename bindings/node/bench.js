'use strict';

// How fast a batch is, and how long the event loop waits meanwhile:
//   node bench.js BUNDLE [FILE with a text a line]
// Prints a line of JSON a run. Exit status 1 if the loop was blocked for more than 10 ms in every run.

const { readFileSync } = require('node:fs');
const path = require('node:path');
const { monitorEventLoopDelay } = require('node:perf_hooks');
const { Classifier } = require(path.resolve(process.env.NIMBERT_TEST_PACKAGE ?? __dirname));

const TEXTS = 10_000;
const RUNS = 5;
const LIMIT_MS = 10;

const [bundle, file] = process.argv.slice(2);
const lines = file ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : ['a delight to the end', 'dull'];
const texts = Array.from({ length: TEXTS }, (_, i) => lines[i % lines.length]);

/** Milliseconds for which this thread was ready to run, but another had its core. Linux only: elsewhere 0. */
function waitedForCore() {
  if (process.platform !== 'linux') return 0;
  return Number(readFileSync('/proc/self/schedstat', 'latin1').split(' ')[1]) / 1e6;
}

/** The longest time between two turns of the event loop, less the time for which the thread had no core. */
function watchOwnTime() {
  let longest = 0;
  let at = performance.now();
  let waited = waitedForCore();
  const timer = setInterval(() => {
    const [now, nowWaited] = [performance.now(), waitedForCore()];
    longest = Math.max(longest, now - at - (nowWaited - waited));
    [at, waited] = [now, nowWaited];
  }, 1);
  return () => {
    clearInterval(timer);
    return longest;
  };
}

async function run(classifier) {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const stop = watchOwnTime();
  delay.enable();
  const began = performance.now();
  await classifier.classifyBatch(texts);
  const seconds = (performance.now() - began) / 1e3;
  delay.disable();
  const [longest, ownLongest] = [delay.max / 1e6, stop()];
  console.log(
    JSON.stringify({
      rows_per_second: Math.round(TEXTS / seconds),
      longest_ms: Number(longest.toFixed(2)),
      longest_own_ms: Number(ownLongest.toFixed(2)),
      p99_ms: Number((delay.percentile(99) / 1e6).toFixed(2)),
    }),
  );
  return ownLongest;
}

async function main() {
  const classifier = await Classifier.open(bundle);
  const longest = [];
  for (let i = 0; i < RUNS; i++) longest.push(await run(classifier));
  await classifier.close();
  if (Math.min(...longest) > LIMIT_MS) process.exitCode = 1;
}

main();
