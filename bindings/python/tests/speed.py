"""Rows a second of the package and of the program, in turn: either opens a bundle and classifies a file of texts, one a
line.

    python speed.py BUNDLE TEXTS PROGRAM [AT_LEAST]

With AT_LEAST, such as 0.95, it fails if the package has less than this share of the program's.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import nimbert

ROUNDS = 5


def seconds_of_package(bundle: str, texts: list[str]) -> float:
    started = time.perf_counter()
    with nimbert.Classifier(bundle) as classifier:
        labels = [prediction.label for prediction in classifier.classify(texts)]
    assert len(labels) == len(texts)
    return time.perf_counter() - started


def seconds_of_program(bundle: str, path: str, program: str) -> float:
    started = time.perf_counter()
    command = [program, "classify", bundle, "--input", path, "--format", "text"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main(bundle: str, path: str, program: str, at_least: str = "0") -> None:
    texts = Path(path).read_text("utf-8").splitlines()
    rounds = [(seconds_of_package(bundle, texts), seconds_of_program(bundle, path, program)) for _ in range(ROUNDS)]
    package, other = (len(texts) / median(seconds) for seconds in zip(*rounds))
    share = package / other
    print(f"{len(texts)} rows: package {package:.0f} rows/s, program {other:.0f} rows/s, {share:.3f} of it")
    if share < float(at_least):
        sys.exit(f"expected {at_least} of the program's rows a second, found {share:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
