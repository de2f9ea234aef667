"""``nimbert.ray`` beside the command line, on two workers of this machine, of which one is killed.

    NIMBERT_PROGRAM=nimbert NIMBERT_TEST_FILE=reviews.nimbert NIMBERT_TEST_TEXTS=texts.txt python cluster_ray.py

The texts are one a line, some ten thousand, and the classifier gives each one label. Linux only: ``/proc`` tells which
processes are workers. :func:`compare` is for other engines too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

PROGRAM, BUNDLE, TEXTS = (os.environ[f"NIMBERT_{name}"] for name in ["PROGRAM", "TEST_FILE", "TEST_TEXTS"])

WORKERS = 2
#: Rows of a block or partition: what is classified again when a worker dies.
BLOCK = 2000
#: How often the engine and the command line are measured, in turn; the median counts.
ROUNDS = 3
LEAST_SHARE = 0.9
#: What the library promises of one text's scores in two batches.
TOLERANCE = 1e-4


class Texts:
    """Texts as files for an engine and for the command line, and where the answers of either go."""

    def __init__(self, folder: str, texts: list[str]) -> None:
        self.rows = len(texts)
        self.parquet, self.answers, self.csv, self.expected = (
            f"{folder}/{self.rows}.{end}" for end in ["parquet", "answers", "csv", "expected.csv"]
        )
        table = pyarrow.table({"id": range(self.rows), "text": texts})
        pyarrow.parquet.write_table(table, self.parquet)
        pyarrow.csv.write_csv(table, self.csv)


def compare(classify: Callable[[Texts], None], blocks_done: Callable[[Texts], int]) -> None:
    """Measures an engine beside the command line, and kills a worker in the middle of a further run. Each row must be
    there once, as the command line answers it.

    ``classify`` is the engine's run, from Parquet to Parquet; ``blocks_done`` says how far it is.
    """
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(TEXTS).read_text("utf-8").splitlines()
        one, many = Texts(folder, texts[:1]), Texts(folder, texts)
        classify(many)  # What an engine compiles at first is not measured.
        shutil.rmtree(many.answers)
        shares = []
        for _ in range(ROUNDS):
            classify(many)
            ours = steady_rows_per_second(many)
            theirs = (many.rows - one.rows) / (seconds_of_program(many) - seconds_of_program(one))
            shares.append(ours / theirs)
            print(f"{ours:.0f} rows/s, the program {theirs:.0f} rows/s: {shares[-1]:.3f} of it", flush=True)
            check(many)
            shutil.rmtree(many.answers)
        with ThreadPoolExecutor() as pool:
            run = pool.submit(classify, many)
            killed = kill_worker(run, lambda: blocks_done(many) >= many.rows / BLOCK / 4)
            run.result()
        check(many)
        print(f"{many.rows} rows, each once, with the labels of the program, although process {killed} was killed")
    share = median(shares)
    assert share >= LEAST_SHARE, f"expected {LEAST_SHARE} of the program's rows a second, found {share:.3f}"


def steady_rows_per_second(texts: Texts) -> float:
    """From when as many blocks are written as there are workers to when all are: without the engine's start and end."""
    files = sorted(Path(texts.answers).glob("*.parquet"), key=lambda file: file.stat().st_mtime)
    seconds = files[-1].stat().st_mtime - files[WORKERS - 1].stat().st_mtime
    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files[WORKERS:]) / seconds


def seconds_of_program(texts: Texts) -> float:
    started = time.perf_counter()
    files = ["--input", texts.csv, "--output", texts.expected]
    subprocess.run([PROGRAM, "classify", BUNDLE, *files, "--threads", str(WORKERS)], check=True)
    return time.perf_counter() - started


def check(texts: Texts) -> None:
    strings = {"text": pyarrow.string(), "label": pyarrow.string()}
    columns = pyarrow.csv.ConvertOptions(include_columns=["id", "text", "label", "score"], column_types=strings)
    expected = pyarrow.csv.read_csv(texts.expected, convert_options=columns)
    answers = pyarrow.parquet.read_table(texts.answers).sort_by("id")
    assert answers.column_names == expected.column_names, answers.column_names
    for name in ["id", "text", "label"]:
        assert answers[name].to_pylist() == expected[name].to_pylist(), f"another {name}"
    differences = pyarrow.compute.abs(pyarrow.compute.subtract(answers["score"], expected["score"]))
    assert pyarrow.compute.max(differences).as_py() <= TOLERANCE


def kill_worker(run: Future[None], is_time: Callable[[], bool]) -> int:
    """Kills a worker once it is time, while ``run`` is under way, and returns which."""
    while not is_time():
        assert not run.done(), f"expected blocks that are done, found the end: {run.exception()}"
        time.sleep(0.1)
    workers = [pid for pid in descendants(os.getpid()) if "libonnxruntime" in Path(f"/proc/{pid}/maps").read_text()]
    assert len(workers) == WORKERS, f"expected {WORKERS} processes with ONNX Runtime, found {workers}"
    for worker in workers:
        print(f"process {worker}: {memory(worker)}")
    os.kill(workers[0], signal.SIGKILL)
    assert not run.done(), "expected a run that is not over when a worker is killed"
    return workers[0]


def descendants(pid: int) -> list[int]:
    children = [int(pid) for file in Path(f"/proc/{pid}/task").glob("*/children") for pid in file.read_text().split()]
    return children + [descendant for child in children for descendant in descendants(child)]


def memory(pid: int) -> str:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(size) for name, size, _ in map(str.split, lines)}
    private = kilobytes["Private_Clean:"] + kilobytes["Private_Dirty:"]
    return f"{private / 1024:.0f} MB of its own, {(kilobytes['Rss:'] - private) / 1024:.0f} MB shared"


def main() -> None:
    # Ray calls home otherwise.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    from nimbert.ray import Classify

    def classify(texts: Texts) -> None:
        blocks = ray.data.read_parquet(texts.parquet).repartition(target_num_rows_per_block=BLOCK)
        labelled = blocks.map_batches(
            Classify,
            fn_constructor_kwargs={"path": BUNDLE, "column": "text"},
            batch_format="pyarrow",
            batch_size=BLOCK,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=WORKERS),
        )
        labelled.write_parquet(texts.answers)

    # Reading and writing are tasks that want a core of Ray's; they share those of the workers.
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, object_store_memory=200 << 20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    compare(classify, lambda texts: len(list(Path(texts.answers).glob("*.parquet"))))


if __name__ == "__main__":
    main()
