"""The classifier."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypedDict, cast, overload

from . import _library, _nimbert
from ._errors import make
from ._predictions import Explanation, Prediction, Predictions, explanation_of, prediction_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Literal, Union

    from typing_extensions import Self, TypeAlias, Unpack

    StrPath: TypeAlias = Union[str, os.PathLike[str]]
    #: Texts: any iterable of strings, or a column of Arrow's.
    Texts: TypeAlias = Union[Iterable[str], "ArrowArray", "ArrowStream"]
    Truncation: TypeAlias = Literal["bundle", "left", "right", "refuse"]
    Attribution: TypeAlias = Literal["auto", "leave-one-out", "shapley"]


class ArrowArray(Protocol):
    """A column of Arrow's PyCapsule interface, such as a ``pyarrow.Array``."""

    def __arrow_c_array__(self, requested_schema: object | None = None, /) -> tuple[object, object]: ...


class ArrowStream(Protocol):
    """A column in chunks, such as a ``pyarrow.ChunkedArray``, a ``polars.Series`` or a ``pandas.Series``."""

    def __arrow_c_stream__(self, requested_schema: object | None = None, /) -> object: ...


class Options(TypedDict, total=False):
    """How a classifier is opened. None, or nothing, is the default."""

    device: str | None
    """cpu (the default), cuda or cuda:N, tensorrt or tensorrt:N, or auto: the best for which the bundle has a graph."""
    threads: int | None
    """Threads on the processor. Default: all of it."""
    variant: str | None
    """The graph by its name in the bundle. Default: the first for the device."""
    parallelism: Literal["auto", "latency", "throughput"] | None
    """What runs beside each other on the processor. Default: auto."""
    batch_size: int | None
    """The most texts in a run of the graph."""
    max_batch_tokens: int | None
    """The most tokens in a run; padding counts where the graph computes it."""
    max_wait_ms: int | None
    """How long a text waits for those of other calls, so that they are run together. Default: 0."""
    queue_limit: int | None
    """How many texts may wait; a call that would exceed it fails. Default: any number."""
    memory_limit: int | str | None
    """Bytes that the process may have, or a text such as 300MB."""
    gpu_memory_limit: int | str | None
    """Bytes that may be used on a GPU, or a text such as 2GB."""
    cache: StrPath | None
    """A folder in which graphs are kept as they were compiled for this machine: they load in half of the time. Default:
    auto, the program's; none: nothing is written."""
    verify: Literal["always", "once", "never"] | None
    """When files are compared with their digests. Default: once."""
    public_key: StrPath | Sequence[StrPath] | None
    """Keys, or files of keys, of which one must have signed the bundle."""
    operators: Literal["known", "any"] | None
    """Whether a graph may use operators that nimbert does not know. Default: known."""
    standard_operators: bool | None
    """Whether ONNX Runtime's operators compute graphs on the CPU alone, without nimbert's own."""
    spinning: bool | None
    """Whether threads wait busily for the next text. Default: false."""
    fast_math: bool | None
    """Whether fp32 may be multiplied in bfloat16: on ARM with that format and under Linux; an error elsewhere."""
    allow_cpu: bool | None
    """Whether a device may leave operators to the processor."""
    profile: StrPath | None
    """Where ONNX Runtime writes what it measures: number, time and .json are appended to this path."""
    ort_lib: StrPath | None
    """ONNX Runtime's library. Default: what ORT_DYLIB_PATH names, or that of the package onnxruntime. The first
    classifier of a process decides."""


class Classifier:
    """A text classifier.

    It may be used by several threads at once, whose texts are run together. It can be pickled, if it was opened by a
    path: it is opened again in the other process, from the same path and with the same options. A process that is
    forked cannot use the classifiers of its parent (:class:`ForkedError`), and opens its own.
    """

    labels: list[str]
    """Label names in the order of their ids; of a bundle with several tasks, the first one's."""
    tasks: dict[str, list[str]]
    """The labels of each task by its name, of a bundle with several; else empty."""
    device: str
    """Where it runs."""
    max_length: int
    """The most tokens of a text that are read."""
    pairs: bool | None
    """Whether it reads pairs of texts; None if the bundle does not say."""

    def __init__(self, path: StrPath, **options: Unpack[Options]) -> None:
        """Opens a bundle, a folder or a ``.nimbert`` file: :class:`Options` says what else can be given."""
        name = os.fsdecode(path)
        self._open(name, options)
        # Another process may have another working directory.
        self._path: str | None = os.path.abspath(name)

    @classmethod
    def from_bytes(cls, data: bytes, **options: Unpack[Options]) -> Self:
        """Opens a ``.nimbert`` file that is in memory. ``data`` is not copied, and kept while the classifier is."""
        classifier = cls.__new__(cls)
        classifier._open(bytes(data), options)
        classifier._path = None
        return classifier

    def _open(self, source: str | bytes, options: Options) -> None:
        self._options = _absolute(options)
        self._inner: _nimbert.Classifier | None = _nimbert.Classifier(source, _settings(options))
        tasks, self.device, self.max_length, self.pairs = self._inner.about()
        self.labels = tasks[0][1]
        self.tasks = {name: labels for name, labels in tasks if name is not None}

    @overload
    def classify(  # type: ignore[overload-overlap]
        self,
        text: str,
        pair: str | None = None,
        /,
        *,
        timeout: float | None = None,
        truncation: Truncation = "bundle",
        cancel: threading.Event | None = None,
    ) -> Prediction: ...
    @overload
    def classify(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        /,
        *,
        timeout: float | None = None,
        truncation: Truncation = "bundle",
        cancel: threading.Event | None = None,
    ) -> Predictions: ...
    def classify(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        /,
        *,
        timeout: float | None = None,
        truncation: Truncation = "bundle",
        cancel: threading.Event | None = None,
    ) -> Prediction | Predictions:
        """Classifies one text, or many.

        Many are any iterable of strings, or a column of pyarrow, polars or pandas, which is read without copying it; a
        null is an error that names its row. A classifier of pairs gets the second texts as ``pairs``, in the same form.

        The interpreter is free meanwhile, and Ctrl-C ends the call. ``timeout`` is in seconds (:class:`DeadlineError`);
        ``cancel``, once it is set by another thread, ends the call within a tenth of a second
        (:class:`CancelledError`). ``truncation`` is what becomes of a text that is too long: it is cut as the bundle
        says, at the left or the right, or refused (:class:`TextError`).
        """
        inner, call = self._opened(), (timeout, truncation, cancel)
        if isinstance(texts, str):
            return prediction_of(inner.classify([texts], None if pairs is None else [pairs], call).row(0))
        return Predictions(inner.classify(_column(texts), None if pairs is None else _column(pairs), call))

    def explain(
        self,
        text: str,
        pair: str | None = None,
        /,
        *,
        task: str | None = None,
        label: str | None = None,
        attribution: Attribution = "auto",
        timeout: float | None = None,
        truncation: Truncation = "bundle",
        cancel: threading.Event | None = None,
    ) -> Explanation:
        """Attributes the answer for a text to its words, by what it would be without some of them.

        ``label`` is the one that is explained: the one that the text gets, or another; ``task`` is whose answer, of a
        bundle with several: the first's, or another's. ``attribution`` is ``"leave-one-out"``: what leaving out the word
        changes, a run of the graph a word; ``"shapley"``: what it adds, over all orders in which words could come in, so
        that the sum is ``value - base_value`` (of n words 2ⁿ runs up to ten, 32 n of more); or ``"auto"``: Shapley values
        up to ten words, else leaving out. The other arguments are those of :meth:`classify`.
        """
        of = (task, label, attribution)
        return explanation_of(self._opened().explain(text, pair, of, (timeout, truncation, cancel)), text, pair)

    def stream(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        /,
        *,
        batch_size: int = 2048,
        timeout: float | None = None,
        truncation: Truncation = "bundle",
        cancel: threading.Event | None = None,
    ) -> Iterator[Prediction]:
        """Classifies an iterable of any length, an endless one too: ``batch_size`` texts are taken from it at a time,
        and their answers given before the next are taken. ``timeout`` is for each batch."""
        if batch_size < 1:
            raise make("setting", f"batch_size: expected 1 or more, found {batch_size}")
        for name, given in [("texts", texts), ("pairs", pairs)]:
            if isinstance(given, str):
                raise make("input", f"{name}: expected an iterable of texts, found one text")

        def answers() -> Iterator[Prediction]:
            first, second, row = iter(texts), None if pairs is None else iter(pairs), 0
            while batch := list(islice(first, batch_size)):
                paired = None if second is None else list(islice(second, len(batch)))
                yield from Predictions(self._opened().classify(batch, paired, (timeout, truncation, cancel), row))
                row += len(batch)
            for _ in second or ():
                raise make("input", "pairs: expected as many as texts, found more")

        return answers()

    def _opened(self) -> _nimbert.Classifier:
        if self._inner is None:
            raise make("closed", "the classifier is closed")
        return self._inner

    def close(self) -> None:
        """Frees the model at once, or with the last call that runs. Using the classifier then is an error."""
        self._inner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        if self._path is None:
            raise TypeError("a classifier of bytes cannot be pickled: expected one that was opened by a path")
        return _reopen, (type(self), self._path, self._options)

    def __repr__(self) -> str:
        return f"<nimbert.Classifier {self._path or 'of bytes'} on {self.device}>"


def _reopen(cls: type[Classifier], path: str, options: Options) -> Classifier:
    return cls(path, **options)


def _absolute(options: Options) -> Options:
    """The same, for a process with another working directory."""

    def path(name: str, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [path(name, each) for each in value]
        # A cache may be named by a word, and a key stand there itself.
        is_path = isinstance(value, (str, bytes, os.PathLike)) and (
            name in ("ort_lib", "profile")
            or (name == "cache" and value not in ("auto", "none"))
            or (name == "public_key" and os.path.exists(value))
        )
        return os.path.abspath(os.fsdecode(value)) if is_path else value  # type: ignore[arg-type]

    return cast(Options, {name: path(name, value) for name, value in options.items()})


def _settings(options: Options) -> list[tuple[str, str]]:
    """Options by name, as the library reads them in every language."""
    settings = [("cache", "auto")]
    if not options.get("ort_lib") and not os.environ.get("ORT_DYLIB_PATH"):
        library = _library.find()
        settings += [("ort_lib", library)] if library else []
    for name, value in options.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        # No key at all is none that must have signed: it must not open what no key was asked of.
        if not values or None in values:
            raise make("setting", f"{name}: expected a value or several, found {value!r}")
        settings += [(name, _text(value)) for value in values]
    return settings


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)


def _column(texts: Texts) -> object:
    """What Rust reads: the capsules of a column, or the texts themselves."""
    if isinstance(texts, str):
        raise make("input", "pairs: expected as many as texts, found one string")
    if stream := getattr(texts, "__arrow_c_stream__", None):
        try:
            return stream()
        except ImportError:
            # pandas exports by means of pyarrow, which may be absent; its strings can be read one by one.
            return texts
    array = getattr(texts, "__arrow_c_array__", None)
    return array() if array else texts
