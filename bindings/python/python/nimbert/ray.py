"""On a Ray cluster: an actor class for Ray Data.

    import ray
    from nimbert.ray import Classify

    reviews = ray.data.read_parquet("reviews").repartition(target_num_rows_per_block=100_000)
    labelled = reviews.map_batches(
        Classify,
        fn_constructor_kwargs={"path": "/models/reviews.nimbert", "column": "text"},
        batch_format="pyarrow",
        batch_size=4096,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=64),
    )
    labelled.write_parquet("labelled")

A block is what is classified again when an actor dies. Reading and writing want cores too: where the actors may take
all of them, both wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow
import ray

from . import Classifier

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from . import Options


class Classify:
    """Adds ``columns`` of the predictions for the texts of ``column`` to tables of Arrow.

    ``path`` is the bundle as the actors see it. ``options`` are those of :class:`nimbert.Classifier`; ``threads``,
    where not given, is the actor's ``num_cpus``.
    """

    def __init__(
        self, path: str, column: str, columns: Sequence[str] = ("label", "score"), **options: Unpack[Options]
    ) -> None:
        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        options.setdefault("threads", max(1, int(cores)))
        self._classifier, self._column, self._columns = Classifier(path, **options), column, columns

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        if self._column not in batch.column_names:
            raise ValueError(f"expected a column {self._column}, found {', '.join(batch.column_names)}")
        predictions = pyarrow.table(self._classifier.classify(batch[self._column]))
        for name in self._columns:
            if name in batch.column_names:
                raise ValueError(f"expected no column that is called {name}, found one: rename it")
            batch = batch.append_column(name, predictions[name])
        return batch
