"""Tests of the installed package: ``python -m unittest`` in this folder.

NIMBERT_TEST_BUNDLE is a bundle's folder, NIMBERT_TEST_FILE the same as one file, NIMBERT_PROGRAM the program
``nimbert``, whose answers must be the package's. NIMBERT_TEST_TEXTS is a file of texts, one a line; without it, they
are made up.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import nimbert

try:
    import pyarrow
except ImportError:
    pyarrow = None
try:
    import polars
except ImportError:
    polars = None
try:
    import pandas
except ImportError:
    pandas = None

BUNDLE = Path(os.environ["NIMBERT_TEST_BUNDLE"])
FILE = Path(os.environ["NIMBERT_TEST_FILE"])
PROGRAM = os.environ["NIMBERT_PROGRAM"]

#: What the library promises of one text's scores in two batches.
TOLERANCE = 1e-4
#: So many texts take longer than any test waits.
MANY = 300_000


def make_texts(count: int) -> list[str]:
    """Sentences of 1 to 40 words; some of their letters take two, three and four bytes."""
    words = "a the film plot dull delight of from start to finish is was not never very naïve 映画 😀 ! , don't".split()
    choose = random.Random(0)
    return [" ".join(choose.choices(words, k=choose.randint(1, 40))) for _ in range(count)]


def read_texts() -> list[str]:
    path = os.environ.get("NIMBERT_TEST_TEXTS")
    return Path(path).read_text("utf-8").splitlines()[:2000] if path else make_texts(2000)


TEXTS = read_texts()
FEW = TEXTS[:20]


def answers_of_program(bundle: Path, texts: list[str]) -> list[dict]:
    command = [PROGRAM, "classify", str(bundle), "--input", "-", "--format", "jsonl", "--json"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    run = subprocess.run(command, input=lines, stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return [json.loads(line) for line in run.stdout.splitlines()]


def python(code: str, **options) -> subprocess.Popen:
    """Another Python, which has read `code`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes, **options)


class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.classifier = nimbert.Classifier(BUNDLE)

    @classmethod
    def tearDownClass(cls):
        cls.classifier.close()

    def assertSame(self, predictions, expected):
        """The same answers, whatever they were run beside."""
        self.assertEqual(len(predictions), len(expected))
        for prediction, other in zip(predictions, expected):
            self.assertEqual(list(prediction.scores), list(other.scores))
            for label, score in other.scores.items():
                self.assertAlmostEqual(prediction.scores[label], score, delta=TOLERANCE)

    @contextmanager
    def assertRaisesKind(self, error: type[nimbert.Error], kind: str, *words: str):
        """A context that an error of this class and kind ends, whose message has these words."""
        with self.assertRaises(error) as context:
            yield
        raised = context.exception
        self.assertEqual(raised.kind, kind, raised)
        for word in words:
            self.assertIn(word, str(raised))
        copy = pickle.loads(pickle.dumps(raised))
        self.assertEqual((type(copy), copy.kind, str(copy)), (type(raised), kind, str(raised)))


class Answers(TestCase):
    def test_scores_are_those_of_the_program(self):
        predictions = self.classifier.classify(TEXTS)
        program = answers_of_program(BUNDLE, TEXTS)
        self.assertEqual(len(predictions), len(program))
        for prediction, expected in zip(predictions, program):
            self.assertEqual(list(prediction.scores), list(expected["scores"]))
            for label, score in expected["scores"].items():
                self.assertAlmostEqual(prediction.scores[label], score, delta=TOLERANCE)
            self.assertEqual(prediction.abstained, expected.get("abstained", False))
            self.assertEqual(prediction.labels, expected.get("labels", [expected["label"]]))

    def test_what_only_some_bundles_say(self):
        for prediction in self.classifier.classify(FEW):
            self.assertEqual((prediction.set, prediction.distance, prediction.unknown), (None, None, False))
        bundle, texts = BUNDLE.parent / "bundle-certain", ["great acting", "terrible , a great plot"]
        predictions = nimbert.Classifier(bundle).classify(texts)
        for prediction, expected in zip(predictions, answers_of_program(bundle, texts)):
            self.assertEqual(prediction.set, expected["set"])
            self.assertAlmostEqual(prediction.distance, expected["distance"], delta=1e-3)
            self.assertEqual(prediction.unknown, expected.get("unknown", False))
        self.assertEqual([prediction.unknown for prediction in predictions], [True, False])
        if pyarrow:
            table = pyarrow.table(predictions)
            self.assertEqual(table["set"].to_pylist(), [prediction.set for prediction in predictions])
            self.assertEqual(table["unknown"].to_pylist(), [True, False])
            self.assertEqual(table["distance"].to_pylist(), [prediction.distance for prediction in predictions])

    def test_several_tasks(self):
        self.assertEqual((self.classifier.tasks, self.classifier.classify("dull").task), ({}, None))
        bundle, texts = BUNDLE.parent / "bundle-tasks", ["great plot and plot 2", "terrible films and films 1"]
        classifier = nimbert.Classifier(bundle)
        self.assertEqual(classifier.tasks, {"stars": ["1", "2", "10"], "mood": ["great", "terrible"]})
        self.assertEqual(classifier.labels, ["1", "2", "10"])
        predictions = classifier.classify(texts)
        for prediction, expected in zip(predictions, answers_of_program(bundle, texts)):
            mood = prediction.further["mood"]
            self.assertEqual((prediction.task, prediction.label), (expected["task"], expected["label"]))
            self.assertEqual((mood.task, mood.label, mood.further), ("mood", expected["further"]["mood"]["label"], {}))
            self.assertAlmostEqual(mood.score, expected["further"]["mood"]["score"], delta=1e-4)
            self.assertEqual(prediction.to_dict()["further"]["mood"]["label"], mood.label)
        self.assertEqual([prediction.further["mood"].label for prediction in predictions], ["great", "terrible"])
        self.assertEqual(classifier.classify(texts[0]).further["mood"].label, "great")
        self.assertEqual(pickle.loads(pickle.dumps(predictions)), list(predictions))
        if pyarrow:
            for table, rows in [(pyarrow.table(predictions), predictions), (pyarrow.table(classifier.classify([])), [])]:
                table.validate(full=True)
                moods = table["further"].combine_chunks().field("mood")
                self.assertEqual(moods.field("label").to_pylist(), [row.further["mood"].label for row in rows])
                self.assertEqual(moods.field("scores").type.names, ["great", "terrible"])

    def test_an_explanation_is_that_of_the_program(self):
        # Characters of one to four bytes before words: places are counted in characters.
        text = "naïve 映画 😀, a great plot"
        for options in [{}, {"attribution": "leave-one-out"}, {"label": self.classifier.labels[0]}]:
            explanation = self.classifier.explain(text, **options)
            command = [PROGRAM, "explain", str(BUNDLE), text, "--json"]
            command += [part for name, value in options.items() for part in (f"--{name}", value)]
            program = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout)
            self.assertEqual((explanation.label, explanation.attribution), (program["label"], program["attribution"]))
            self.assertEqual([word.text for word in explanation.words], [word["word"] for word in program["words"]])
            for word, expected in zip(explanation.words, program["words"]):
                self.assertEqual((text[word.start : word.end], word.is_of_pair), (expected["word"], False))
                self.assertAlmostEqual(word.attribution, expected["attribution"], delta=TOLERANCE)
            self.assertAlmostEqual(explanation.value, program["value"], delta=TOLERANCE)
            self.assertAlmostEqual(explanation.base_value, program["base_value"], delta=TOLERANCE)
            self.assertEqual(explanation.prediction.label, self.classifier.classify(text).label)
        explanation = self.classifier.explain(text)
        total = sum(word.attribution for word in explanation.words)
        self.assertAlmostEqual(total, explanation.value - explanation.base_value, delta=TOLERANCE)
        self.assertEqual(pickle.loads(pickle.dumps(explanation)), explanation)

    def test_words_of_a_pair(self):
        first, second = "naïve 😀 film", "a plot"
        explanation = nimbert.Classifier(BUNDLE.parent / "bundle-2").explain(first, second)
        places = [(word.text, word.start, word.end, word.is_of_pair) for word in explanation.words]
        self.assertEqual(places[-3:], [("film", 8, 12, False), ("a", 0, 1, True), ("plot", 2, 6, True)])
        for wrong in [("\ud83c", None), (5, None), ("a", 5)]:
            with self.assertRaisesKind(nimbert.TextError, "input", "pair" if wrong[1] else "text"):
                self.classifier.explain(*wrong)

    def test_what_is_explained(self):
        classifier = nimbert.Classifier(BUNDLE.parent / "bundle-tasks")
        mood = classifier.explain("a great plot", task="mood", label="terrible")
        self.assertEqual((mood.prediction.task, mood.prediction.label, mood.label), ("mood", "great", "terrible"))
        self.assertLess(min(word.attribution for word in mood.words if word.text == "great"), 0)
        self.assertEqual(classifier.explain("a great plot").prediction.further, {})
        with self.assertRaisesKind(nimbert.SettingError, "setting", "one of the bundle's labels: great, terrible"):
            classifier.explain("a plot", task="mood", label="nonsense")
        with self.assertRaisesKind(nimbert.SettingError, "setting", "one of the bundle's tasks", "nonsense"):
            classifier.explain("a plot", task="nonsense")
        with self.assertRaisesKind(nimbert.SettingError, "setting", "attribution: expected auto, leave-one-out"):
            classifier.explain("a plot", attribution="nonsense")
        with self.assertRaisesKind(nimbert.DeadlineError, "deadline_passed"):
            classifier.explain("a plot " * 50, attribution="shapley", timeout=0.001)
        cancel = threading.Event()
        cancel.set()
        with self.assertRaisesKind(nimbert.CancelledError, "cancelled"):
            classifier.explain("a plot", cancel=cancel)
        slow = nimbert.Classifier(BUNDLE, threads=1, parallelism="latency", batch_size=1)
        cancel = threading.Event()
        threading.Timer(0.02, cancel.set).start()
        with self.assertRaisesKind(nimbert.CancelledError, "cancelled"):
            slow.explain("a plot " * 50, attribution="shapley", cancel=cancel)
        self.assertEqual(classifier.explain("").words, [])
        self.assertGreater(classifier.explain("a plot " * 200).unread_words, 0)

    def test_one_text_and_the_same_among_many(self):
        many = self.classifier.classify(FEW)
        self.assertSame([self.classifier.classify(text) for text in FEW], list(many))

    def test_a_prediction(self):
        prediction = self.classifier.classify("a delight from start to finish")
        self.assertEqual(list(prediction.scores), self.classifier.labels)
        self.assertEqual(len(prediction.logits), len(prediction.scores))
        self.assertEqual(prediction.score, prediction.scores[prediction.label])
        self.assertEqual(prediction.top(1), [(prediction.label, prediction.score)])
        best = [score for _, score in prediction.top(1000)]
        self.assertEqual(best, sorted(prediction.scores.values(), reverse=True))
        self.assertEqual(json.loads(json.dumps(prediction.to_dict()))["label"], prediction.label)
        self.assertEqual(pickle.loads(pickle.dumps(prediction)), prediction)
        if sys.version_info >= (3, 10):
            self.assertEqual(nimbert.Prediction.__match_args__[:2], ("label", "score"))
        self.assertTrue(repr(prediction).startswith(f"Prediction(label={prediction.label!r}, score="))
        with self.assertRaises(AttributeError):
            prediction.label = "another"

    def test_predictions_are_a_sequence(self):
        predictions = self.classifier.classify(FEW)
        rows = list(predictions)
        self.assertEqual((len(predictions), predictions[0], predictions[-1]), (len(FEW), rows[0], rows[-1]))
        self.assertEqual(predictions[1:9:3], rows[1:9:3])
        self.assertEqual(pickle.loads(pickle.dumps(predictions)), rows)
        with self.assertRaises(IndexError):
            predictions[len(FEW)]

    def test_texts_of_any_iterable(self):
        expected = list(self.classifier.classify(FEW))
        self.assertSame(self.classifier.classify(tuple(FEW)), expected)
        self.assertSame(self.classifier.classify(text for text in FEW), expected)
        self.assertEqual(len(self.classifier.classify([])), 0)

    def test_pairs(self):
        second = FEW[::-1]
        if self.classifier.pairs is False:
            with self.assertRaisesKind(nimbert.TextError, "input", "expected one text", "a pair"):
                self.classifier.classify("a", "b")
            return
        predictions = list(self.classifier.classify(FEW, second))
        self.assertSame([self.classifier.classify(*pair) for pair in zip(FEW, second)], predictions)
        self.assertSame(list(self.classifier.stream(FEW, second, batch_size=7)), predictions)

    def test_as_many_pairs_as_texts(self):
        for texts, pairs in [(["a", "b"], ["c"]), (["a"], "c")]:
            with self.assertRaisesKind(nimbert.TextError, "input", "pairs: expected as many as texts"):
                self.classifier.classify(texts, pairs)
        if self.classifier.pairs is not False:
            with self.assertRaisesKind(nimbert.TextError, "input", "found more"):
                list(self.classifier.stream(["a", "b"], iter(["c", "d", "e"])))

    def test_a_stream_takes_what_it_needs(self):
        taken = []
        texts = (taken.append(text) or text for text in itertools.cycle(FEW))
        predictions = list(itertools.islice(self.classifier.stream(texts, batch_size=16), 40))
        self.assertEqual(len(taken), 48)
        self.assertSame(predictions[:20], list(self.classifier.classify(FEW)))

    def test_a_row_of_a_stream_is_counted_from_its_first(self):
        texts = [*FEW, None]
        with self.assertRaisesKind(nimbert.TextError, "input", f"texts[{len(FEW)}]: ", "'str'"):
            list(self.classifier.stream(texts, batch_size=3))

    def test_a_time_that_is_no_number(self):
        with self.assertRaisesKind(nimbert.SettingError, "setting", "timeout: expected seconds, found nan"):
            self.classifier.classify("a", timeout=float("nan"))

    def test_what_is_no_text(self):
        for wrong in [None, float("nan"), b"bytes", 5]:
            with self.assertRaisesKind(nimbert.TextError, "input", "texts[1]: ", "'str'"):
                self.classifier.classify(["a", wrong])
        with self.assertRaisesKind(nimbert.TextError, "input", "texts[0]: ", "surrogates"):
            self.classifier.classify(["\ud800"])
        with self.assertRaises(TypeError):
            self.classifier.classify(5)

    def test_a_long_text(self):
        long = "a dull film " * self.classifier.max_length
        self.assertSame(self.classifier.classify([long]), [self.classifier.classify(long, truncation="bundle")])
        with self.assertRaisesKind(nimbert.TextError, "too_long", "tokens"):
            self.classifier.classify(long, truncation="refuse")
        with self.assertRaisesKind(nimbert.SettingError, "setting", "truncation", "middle"):
            self.classifier.classify("a", truncation="middle")


class Opening(TestCase):
    def test_one_file(self):
        expected = list(self.classifier.classify(FEW))
        for opened in [
            nimbert.Classifier(FILE),
            nimbert.Classifier(
                str(FILE), threads=1, verify="always", cache="none", parallelism="latency", spinning=False
            ),
            nimbert.Classifier.from_bytes(FILE.read_bytes()),
        ]:
            with opened as classifier:
                gc.collect()
                self.assertSame(classifier.classify(FEW), expected)

    def test_what_is_not_there(self):
        with self.assertRaisesKind(nimbert.FileMissingError, "io", "no-such-bundle"):
            nimbert.Classifier("no-such-bundle")
        with self.assertRaises(FileNotFoundError) as raised:
            nimbert.Classifier("no-such-bundle")
        self.assertEqual(raised.exception.errno, errno.ENOENT if os.name == "posix" else None)

    def test_what_is_damaged(self):
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(shutil.copytree(BUNDLE, Path(folder, "bundle")))
            graph = (bundle / "model.onnx").read_bytes()
            damaged = graph[:1000] + bytes([graph[1000] ^ 1]) + graph[1001:]
            (bundle / "model.onnx").write_bytes(damaged)
            with self.assertRaisesKind(nimbert.BundleError, "checksum", "model.onnx", "damaged"):
                nimbert.Classifier(bundle, cache="none")
            packed = FILE.read_bytes().replace(graph, damaged)
            with self.assertRaisesKind(nimbert.BundleError, "checksum", "model.onnx", "damaged"):
                nimbert.Classifier.from_bytes(packed, cache="none")
        with self.assertRaisesKind(nimbert.BundleError, "format"):
            nimbert.Classifier.from_bytes(b"no ZIP")
        with self.assertRaises(TypeError):
            nimbert.Classifier.from_bytes(str(FILE))

    def test_wrong_options(self):
        for options, words in [
            ({"threads": 0}, ["threads", "0"]),
            ({"device": "gpu"}, ["device", "gpu"]),
            ({"verify": True}, ["verify", "true"]),
            ({"thread": 1}, ["thread"]),
            # No key at all is none that has signed.
            ({"public_key": []}, ["public_key: expected a value or several, found []"]),
            ({"public_key": (None,)}, ["public_key: expected a value or several"]),
        ]:
            with self.assertRaisesKind(nimbert.SettingError, "setting", *words):
                nimbert.Classifier(BUNDLE, **options)

    def test_another_library(self):
        # In a process that has loaded none.
        code = f"""
import nimbert
try:
    nimbert.Classifier({str(BUNDLE)!r}, ort_lib="no-such-library.so")
except nimbert.Error as error:
    print(error.kind, error)
"""
        self.assertRegex(python(code).communicate()[0], "(?s)^library_not_found .*no-such-library.so")

    def test_closed(self):
        classifier = nimbert.Classifier(BUNDLE)
        with ThreadPoolExecutor() as pool:
            running = pool.submit(classifier.classify, TEXTS)
            time.sleep(0.01)
            classifier.close()
            self.assertEqual(len(running.result()), len(TEXTS))
        self.assertEqual(classifier.labels, self.classifier.labels)
        classifier.close()
        with self.assertRaisesKind(nimbert.Error, "closed", "closed"):
            classifier.classify("a")

    def test_what_is_said_of_it(self):
        self.assertEqual(self.classifier.device, "cpu")
        self.assertIn(str(BUNDLE), repr(self.classifier))
        self.assertGreater(self.classifier.max_length, 2)
        self.assertRegex(nimbert.__version__, r"^\d+\.\d+\.\d+")


class Calls(TestCase):
    def test_threads_at_once(self):
        expected = list(self.classifier.classify(TEXTS[:200]))
        with ThreadPoolExecutor(8) as pool:
            for predictions in pool.map(lambda _: self.classifier.classify(TEXTS[:200]), range(16)):
                self.assertSame(predictions, expected)

    def test_the_interpreter_is_free_meanwhile(self):
        cancel = threading.Event()
        with ThreadPoolExecutor() as pool:
            texts = make_texts(1000) * (MANY // 1000)
            running = pool.submit(self.classifier.classify, texts, cancel=cancel)
            time.sleep(0.5)
            started, steps = time.monotonic(), 0
            while time.monotonic() - started < 0.2:
                steps += 1
            self.assertFalse(running.done(), "the call was to be a long one")
            cancel.set()
            with self.assertRaisesKind(nimbert.CancelledError, "cancelled"):
                running.result()
        self.assertGreater(steps, 10_000)

    def test_a_deadline(self):
        for texts in ["a", ["a"], make_texts(1000) * (MANY // 1000)]:
            with self.assertRaisesKind(nimbert.DeadlineError, "deadline_passed"):
                self.classifier.classify(texts, timeout=0)
        with self.assertRaises(TimeoutError):
            self.classifier.classify(["a"], timeout=-1)
        self.assertSame(self.classifier.classify(FEW, timeout=1e300), self.classifier.classify(FEW, timeout=60))

    def test_cancelled_by_another_thread(self):
        cancel = threading.Event()
        texts = make_texts(1000) * (MANY // 1000)
        at = threading.Timer(0.3, lambda: (times.append(time.monotonic()), cancel.set()))
        times: list[float] = []
        at.start()
        with self.assertRaisesKind(nimbert.CancelledError, "cancelled"):
            self.classifier.classify(texts, cancel=cancel)
        self.assertLess(time.monotonic() - times[0], 0.5)

    def test_ctrl_c(self):
        code = f"""
import time, nimbert
classifier = nimbert.Classifier({str(BUNDLE)!r})
texts = ["a dull film " * 30] * {MANY}
classifier.classify(texts[:10])
print("begins", flush=True)
try:
    classifier.classify(texts)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
    print(classifier.classify("a").label)
"""
        process = python(code)
        self.assertEqual(process.stdout.readline(), "begins\n")
        time.sleep(1.5)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        self.assertEqual((process.returncode, errors), (0, ""))
        seen, label = output.splitlines()
        self.assertLess(float(seen) - sent, 1)
        self.assertIn(label, self.classifier.labels)


class Processes(TestCase):
    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork here")
    def test_fork(self):
        self.classifier.classify(FEW)
        with warnings.catch_warnings():
            # That threads run is what is tried.
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            status = 1
            try:
                kind = None
                try:
                    self.classifier.classify("a")
                except nimbert.ForkedError as error:
                    kind = error.kind
                found = nimbert.Classifier(BUNDLE).classify(FEW)[0].label
                self.classifier.close()
                # What raises before this leaves it at 1.
                status = 2 if kind != "forked" else 3 if found not in self.classifier.labels else 0
            finally:
                os._exit(status)
        for _ in range(600):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, signal.SIGKILL)
            self.fail("the child hangs")
        self.assertEqual(status, 0)
        self.assertSame(self.classifier.classify(FEW), list(self.classifier.classify(FEW)))

    def test_spawn(self):
        expected = list(self.classifier.classify(FEW))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            self.assertSame(pool.submit(self.classifier.classify, FEW).result(), expected)

    def test_pickle(self):
        here = os.getcwd()
        os.chdir(BUNDLE.parent)
        try:
            pickled = pickle.dumps(nimbert.Classifier(BUNDLE.name, threads=1))
            # Words stay, and paths hold wherever it is opened again.
            _, (_, _, plain) = nimbert.Classifier(BUNDLE.name, cache="none").__reduce__()
            with tempfile.TemporaryDirectory(dir=".") as folder:
                cache = os.path.relpath(folder)
                _, (_, _, kept) = nimbert.Classifier(BUNDLE.name, cache=cache).__reduce__()
        finally:
            os.chdir(here)
        self.assertEqual(plain, {"cache": "none"})
        self.assertEqual(kept, {"cache": os.path.join(os.path.realpath(BUNDLE.parent), cache)})
        with pickle.loads(pickled) as classifier:
            self.assertSame(classifier.classify(FEW), list(self.classifier.classify(FEW)))
        with self.assertRaisesRegex(TypeError, "bytes"):
            pickle.dumps(nimbert.Classifier.from_bytes(FILE.read_bytes()))

    def test_import(self):
        code = """
import sys, time
started = time.perf_counter()
import nimbert
print(time.perf_counter() - started)
"""
        # The best of some: the first reads from the disk.
        times = [float(python(code).communicate()[0]) for _ in range(5)]
        self.assertLess(min(times), 0.05)

    def test_what_is_not_imported_and_not_written(self):
        code = f"""
import sys
import nimbert, os
classifier = nimbert.Classifier({str(BUNDLE)!r})
classifier.classify(["a", "b"])[0].top(1)
print(sorted({{"numpy", "onnxruntime", "pyarrow", "pandas"}} & set(sys.modules)), os.environ["ORT_DISABLE_TELEMETRY"])
"""
        environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        output, errors = python(code, env=environment).communicate()
        self.assertEqual((output, errors), ("[] 1\n", ""))


@unittest.skipUnless(pyarrow, "pyarrow is not installed")
class Arrow(TestCase):
    def columns(self, texts):
        array = pyarrow.array(texts, pyarrow.string())
        large = array.cast(pyarrow.large_string())
        around = pyarrow.array([None, *texts, None], pyarrow.string())
        yield "string", array
        yield "large string", large
        yield "view", array.cast(pyarrow.string_view())
        yield "dictionary", array.dictionary_encode()
        yield "dictionary of large strings", large.dictionary_encode()
        yield "small keys", array.dictionary_encode().cast(pyarrow.dictionary(pyarrow.uint8(), pyarrow.string()))
        yield "slice", around[1:-1]
        yield "slice of views", around.cast(pyarrow.string_view())[1:-1]
        yield "slice of a dictionary", around.dictionary_encode()[1:-1]
        yield "chunks, one of them empty", pyarrow.chunked_array([array[:7], array[7:7], array[7:]])
        yield "chunked dictionary", pyarrow.chunked_array([array[:7], array[7:]]).dictionary_encode()

    def test_columns(self):
        expected = list(self.classifier.classify(FEW))
        for name, column in self.columns(FEW):
            with self.subTest(name):
                self.assertSame(self.classifier.classify(column), expected)

    def test_a_null_is_named(self):
        for name, column in self.columns([*FEW, None, "a"]):
            with self.subTest(name), self.assertRaisesKind(nimbert.TextError, "input", f"texts[{len(FEW)}]: ", "null"):
                self.classifier.classify(column)

    def test_nulls_that_no_row_has(self):
        dictionary = pyarrow.DictionaryArray.from_arrays([2, 0], [FEW[1], None, FEW[0]])
        self.assertSame(self.classifier.classify(dictionary), list(self.classifier.classify(FEW[:2])))

    def test_a_stream_that_cannot_be_is_refused_at_once(self):
        for count in (0, -1):
            with self.assertRaisesKind(nimbert.Error, "setting", "batch_size: expected 1 or more"):
                self.classifier.stream(FEW, batch_size=count)
        with self.assertRaisesKind(nimbert.TextError, "input", "texts: expected an iterable of texts, found one text"):
            self.classifier.stream("a text")

    def test_what_was_read_already_is_an_error(self):
        class Once:
            def __init__(self, column, again):
                self.column, self.again = column, again
                self.schema, self.array = column.__arrow_c_array__()

            def __arrow_c_array__(self, requested_schema=None):
                array = self.column.__arrow_c_array__()[1] if self.again else self.array
                return self.schema, array

        for again in (False, True):
            once = Once(pyarrow.array(FEW), again)
            self.assertSame(self.classifier.classify(once), list(self.classifier.classify(FEW)))
            with self.assertRaisesRegex(TypeError, "read already"):
                self.classifier.classify(once)

    def test_of_a_table_nothing_is_read(self):
        asked = []

        def batches():
            asked.append(1)
            yield pyarrow.record_batch({"text": FEW})

        reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema({"text": pyarrow.string()}), batches())
        with self.assertRaisesKind(nimbert.TextError, "input", "texts: expected a column of strings"):
            self.classifier.classify(reader)
        self.assertEqual(asked, [])

    def test_empty(self):
        for name, column in self.columns([]):
            with self.subTest(name):
                self.assertEqual(len(self.classifier.classify(column)), 0)
        # Which need not have a type.
        self.assertEqual(len(self.classifier.classify(pyarrow.array([]))), 0)

    def test_other_types(self):
        table = pyarrow.table({"text": FEW})
        for column in [pyarrow.array([1, 2]), pyarrow.nulls(2), pyarrow.array([b"a"]), table]:
            with self.assertRaisesKind(nimbert.TextError, "input", "texts: expected a column of strings"):
                self.classifier.classify(column)
        self.assertEqual(len(self.classifier.classify(table["text"])), len(FEW))

    def test_a_column_that_is_not_aligned(self):
        """As columns of files are, which Arrow aligns to 8 bytes, where a view wants 16."""
        views = pyarrow.array(FEW, pyarrow.string_view())
        _, lies, *data = views.buffers()
        moved = pyarrow.py_buffer(b"-" * 8 + lies.to_pybytes())[8:]
        column = pyarrow.Array.from_buffers(pyarrow.string_view(), len(FEW), [None, moved, *data])
        self.assertSame(self.classifier.classify(column), list(self.classifier.classify(FEW)))

    def test_what_is_no_utf_8(self):
        offsets, content = (pyarrow.py_buffer(data) for data in (b"\0\0\0\0\2\0\0\0", b"\xff\xfe"))
        with self.assertRaisesKind(nimbert.TextError, "input", "texts: "):
            self.classifier.classify(pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, content]))

    def test_a_table(self):
        predictions = self.classifier.classify(FEW)
        table = pyarrow.table(predictions)
        table.validate(full=True)
        self.assertEqual(table.column_names, ["label", "score", "labels", "abstained", "scores", "set", "distance", "unknown"])
        self.assertEqual(table["scores"].type.names, self.classifier.labels)
        rows = [{**prediction.to_dict(), "scores": prediction.scores} for prediction in predictions]
        rows = [{name: row[name] for name in table.column_names} for row in rows]
        self.assertEqual(table.to_pylist(), rows)
        self.assertEqual(pyarrow.table(self.classifier.classify([])).num_rows, 0)

    @unittest.skipUnless(polars, "polars is not installed")
    def test_polars(self):
        expected = list(self.classifier.classify(FEW))
        for column in [
            polars.Series(FEW),
            polars.Series(FEW, dtype=polars.Categorical),
            polars.Series(["a", *FEW])[1:],
        ]:
            self.assertSame(self.classifier.classify(column), expected)
        with self.assertRaisesKind(nimbert.TextError, "input", "texts[1]"):
            self.classifier.classify(polars.Series(["a", None]))
        frame = polars.DataFrame(self.classifier.classify(FEW))
        self.assertEqual(frame["label"].to_list(), [prediction.label for prediction in expected])
        self.assertEqual(frame["scores"].to_list(), [prediction.scores for prediction in self.classifier.classify(FEW)])

    @unittest.skipUnless(pandas, "pandas is not installed")
    def test_pandas(self):
        expected = list(self.classifier.classify(FEW))
        frame = pandas.DataFrame({"text": FEW}, index=range(100, 100 + len(FEW)))
        for column in [frame["text"], frame["text"].astype(object), frame["text"].astype("category")]:
            self.assertSame(self.classifier.classify(column), expected)
        for missing in [None, float("nan")]:
            with self.assertRaisesKind(nimbert.TextError, "input", "texts[1]"):
                self.classifier.classify(pandas.Series(["a", missing, "b"]))
        labels = pyarrow.table(self.classifier.classify(FEW)).to_pandas()["label"]
        self.assertEqual(list(labels), [prediction.label for prediction in expected])


if __name__ == "__main__":
    unittest.main()
