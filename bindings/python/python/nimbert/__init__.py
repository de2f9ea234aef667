"""Classifies texts with what nimbert-train made: a folder, or one ``.nimbert`` file.

>>> classifier = nimbert.Classifier("reviews.nimbert")
>>> classifier.classify("I love this movie!").label
'positive'
>>> [prediction.label for prediction in classifier.classify(["dull", "a delight"])]
['negative', 'positive']
"""

import os

# ONNX Runtime calls home unless this is set before its library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from ._classifier import ArrowArray, ArrowStream, Classifier, Options
from ._errors import (
    BundleError,
    CancelledError,
    DeadlineError,
    Error,
    FileError,
    FileMissingError,
    ForkedError,
    SettingError,
    TextError,
)
from ._nimbert import VERSION as __version__
from ._predictions import Explanation, Prediction, Predictions, Word

__all__ = [
    "ArrowArray",
    "ArrowStream",
    "BundleError",
    "CancelledError",
    "Classifier",
    "DeadlineError",
    "Error",
    "Explanation",
    "FileError",
    "FileMissingError",
    "ForkedError",
    "Options",
    "Prediction",
    "Predictions",
    "SettingError",
    "TextError",
    "Word",
    "__version__",
]
