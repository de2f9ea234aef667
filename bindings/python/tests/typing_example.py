"""Everything that the package offers, once: what mypy and pyright check, and what a reader may look up.

mypy --strict typing_example.py
pyright typing_example.py
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import nimbert


def one_text(path: Path) -> str:
    with nimbert.Classifier(path, device="cpu", threads=2, cache=None) as classifier:
        prediction: nimbert.Prediction = classifier.classify("I love this movie!")
        label, score, *_ = prediction
        best: list[tuple[str, float]] = prediction.top(2)
        scores: dict[str, float] = prediction.scores
        logits: list[float] = prediction.logits
        row: dict[str, object] = prediction.to_dict()
        if prediction.abstained:
            return "unsure"
        return f"{label} {score:.2f} {prediction.labels} {best} {scores} {logits} {row}"


def many_texts(classifier: nimbert.Classifier, texts: Iterable[str]) -> list[str]:
    predictions: nimbert.Predictions = classifier.classify(texts, timeout=60.0, truncation="left")
    first: nimbert.Prediction = predictions[0]
    last: list[nimbert.Prediction] = predictions[-2:]
    assert len(predictions) >= len([first]) and last
    return [prediction.label for prediction in predictions]


def pairs(classifier: nimbert.Classifier) -> tuple[nimbert.Prediction, nimbert.Predictions]:
    one = classifier.classify("Is it open?", "The door is shut.")
    return one, classifier.classify(["Is it open?"], ["The door is shut."])


def reasons(classifier: nimbert.Classifier, text: str) -> list[tuple[str, float]]:
    explanation: nimbert.Explanation = classifier.explain(text, attribution="shapley", label="positive", timeout=10.0)
    words: list[nimbert.Word] = explanation.words
    assert explanation.value >= explanation.base_value and explanation.prediction.label != explanation.label
    of_pair = classifier.explain("Is it open?", text, task="tone")
    assert [text[word.start : word.end] for word in of_pair.words if word.is_of_pair] and not explanation.unread_words
    return [(word.text, word.attribution) for word in words]


def columns(classifier: nimbert.Classifier, array: nimbert.ArrowArray, chunks: nimbert.ArrowStream) -> object:
    """Columns of pyarrow, polars and pandas are such."""
    return classifier.classify(array, chunks).__arrow_c_stream__()


def endless(classifier: nimbert.Classifier, lines: Iterator[str]) -> Iterator[nimbert.Prediction]:
    yield from classifier.stream(lines, batch_size=256)


def cancelled(classifier: nimbert.Classifier, texts: list[str]) -> bool:
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    try:
        classifier.classify(texts, cancel=cancel)
    except nimbert.CancelledError:
        return True
    return False


def what_went_wrong(path: str) -> str:
    options: nimbert.Options = {"verify": "always", "public_key": [Path("key.pub")], "memory_limit": "300MB"}
    try:
        classifier = nimbert.Classifier(path, **options)
    except FileNotFoundError as missing:
        return str(missing)
    except nimbert.FileError as unreadable:
        return str(unreadable)
    except nimbert.BundleError as damaged:
        return damaged.kind
    except nimbert.SettingError as wrong:
        return str(wrong)
    try:
        classifier.classify(["a text"], timeout=0.001, truncation="refuse")
    except nimbert.DeadlineError:
        return "late"
    except (nimbert.TextError, nimbert.ForkedError) as refused:
        return refused.kind
    except nimbert.Error as other:
        return other.kind
    return f"{classifier.labels} {classifier.device} {classifier.max_length} {classifier.pairs} {nimbert.__version__}"


def in_memory(data: bytes) -> nimbert.Classifier:
    return nimbert.Classifier.from_bytes(data, parallelism="latency", max_wait_ms=5, spinning=False)
