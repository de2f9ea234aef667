"""``nimbert.spark`` beside the command line, on two executors of this machine, of whose Python workers one is killed.

NIMBERT_PROGRAM, NIMBERT_TEST_FILE and NIMBERT_TEST_TEXTS are those of ``cluster_ray.py``.
"""

from __future__ import annotations

import os
import sys

from cluster_ray import BLOCK, BUNDLE, WORKERS, Texts, compare
from pyspark.sql import SparkSession

import nimbert.spark


def main() -> None:
    os.environ.update(SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable)
    # Java's first compiler alone: the second would still be busy at the end of a run as short as these.
    java = "-XX:TieredStopAtLevel=1"
    settings = {
        "spark.driver.extraJavaOptions": java,
        "spark.executor.extraJavaOptions": java,
        "spark.executor.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    # Executors that are processes, with a core and 1,024 MB each.
    builder = SparkSession.builder.master(f"local-cluster[{WORKERS},1,1024]").config(map=settings)
    with builder.getOrCreate() as spark:

        def classify(texts: Texts) -> None:
            reviews = spark.read.parquet(texts.parquet).repartition(texts.rows // BLOCK)
            nimbert.spark.classify(reviews, BUNDLE, "text").write.parquet(texts.answers)

        def partitions_done(_: Texts) -> int:
            tracker = spark.sparkContext.statusTracker()
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            return sum(stage.numCompletedTasks for stage in stages if stage)

        compare(classify, partitions_done)


if __name__ == "__main__":
    main()
