"""From Python: one text, several at once, a call that is given up, an error.

Usage: python classify.py reviews.nimbert
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import nimbert


def show(prediction: nimbert.Prediction) -> None:
    print(f"{prediction.label} {prediction.score:.3f}")


def main(bundle: str) -> None:
    with nimbert.Classifier(bundle, threads=2) as classifier, ThreadPoolExecutor() as pool:
        show(classifier.classify("I love this movie!"))
        for prediction in classifier.classify(["dull", "a delight from start to finish", "well, it ends"]):
            show(prediction)

        # The interpreter is free while a call runs. Ctrl-C gives up one of the main thread, timeout=1.0 any of them.
        cancel = threading.Event()
        many = ["a long story that nobody waits for"] * 20_000
        call = pool.submit(lambda: classifier.classify(many, cancel=cancel))
        cancel.set()
        try:
            call.result()
        except nimbert.CancelledError as error:
            print(error.kind)

        try:
            nimbert.Classifier("nowhere.nimbert")
        except nimbert.FileError as error:
            print(f"{error.kind}: {error}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "reviews.nimbert")
