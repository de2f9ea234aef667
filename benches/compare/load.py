"""Load on a server from clients that each send one request after the other, on connections that are kept.

    python load.py PORT CLIENTS SECONDS TEXTS.txt

Prints one JSON object: how many requests were answered with each status, requests a second, and latencies. "refused" is a
connection that nobody takes, "closed" one that was closed when the request was sent, as idle ones are when a server ends;
any other failure is an "error".
"""

import collections
import http.client
import json
import sys
import threading
import time


def client(port, texts, end, answers, latencies):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for turn in range(sys.maxsize):
        if time.perf_counter() > end:
            return
        body = json.dumps({"inputs": texts[turn % len(texts)]})
        started = time.perf_counter()
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            answers[response.status] += 1
            if response.status == 200:
                latencies.append(1e3 * (time.perf_counter() - started))
        except (OSError, http.client.HTTPException) as error:
            kinds = {ConnectionRefusedError: "refused", http.client.RemoteDisconnected: "closed", BrokenPipeError: "closed"}
            answers[kinds.get(type(error), "error")] += 1
            connection.close()
            time.sleep(0.01)


def main():
    port, clients, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    texts = open(sys.argv[4]).read().splitlines()
    answers, latencies = collections.Counter(), []
    started = time.perf_counter()
    arguments = [(port, texts[index::clients], started + seconds, answers, latencies) for index in range(clients)]
    threads = [threading.Thread(target=client, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    latencies.sort()
    print(
        json.dumps(
            {
                "answers": {str(status): count for status, count in answers.items()},
                "requests_per_second": len(latencies) / elapsed,
                "p50_ms": latencies[len(latencies) // 2] if latencies else None,
                "p99_ms": latencies[int(len(latencies) * 0.99)] if latencies else None,
            }
        )
    )


if __name__ == "__main__":
    main()
