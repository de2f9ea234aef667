"""On a Spark cluster, in Arrow's record batches; a partition is what is classified again when a worker dies.

    reviews = spark.read.parquet("reviews")
    labelled = nimbert.spark.classify(reviews, "/models/reviews.nimbert", column="text")
    labelled.write.parquet("labelled")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow
from pyspark import SparkFiles, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.functions import lit

from . import Classifier, Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TYPES = {
    "label": "string",
    "score": "float",
    "labels": "array<string>",
    "abstained": "boolean",
    "set": "array<string>",
    "distance": "float",
    "unknown": "boolean",
}


def classify(
    frame: DataFrame, path: str, column: str, columns: Sequence[str] = ("label", "score"), **options: Unpack[Options]
) -> DataFrame:
    """``frame`` with ``columns`` of the predictions for the texts of ``column``: label, score, labels, abstained,
    set, distance or unknown; of a bundle with several tasks, the first one's.

    ``path`` is the bundle as the workers see it, or the name of a file that ``SparkContext.addFile`` sends to them.
    ``options`` are those of :class:`nimbert.Classifier`; ``threads``, where not given, is ``spark.task.cpus``.
    """
    if column not in frame.columns:
        raise ValueError(f"expected a column {column}, found {', '.join(frame.columns)}")
    if taken := [name for name in columns if name in frame.columns]:
        raise ValueError(f"expected no column that is called {' or '.join(taken)}, found one: rename it")
    if isinstance(keys := options.get("public_key"), list):
        options["public_key"] = tuple(keys)  # which can be a key of the cache below

    def add_predictions(batches: Iterator[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
        file = SparkFiles.get(path)  # which leaves an absolute path as it is
        cores = TaskContext.get().cpus()  # type: ignore[union-attr]
        classifier = _open(file, os.stat(file).st_mtime_ns, **{"threads": cores, **options})
        for batch in batches:
            predictions = pyarrow.table(classifier.classify(batch[column]))
            for name in columns:
                batch = batch.append_column(name, predictions[name].combine_chunks())
            yield batch

    return frame.mapInArrow(add_predictions, frame.withColumns({n: lit(None).cast(_TYPES[n]) for n in columns}).schema)


@lru_cache(maxsize=1)
def _open(file: str, _modified: int, **options: Unpack[Options]) -> Classifier:
    """Once a worker, which Spark gives one task after the other."""
    return Classifier(file, **options)
