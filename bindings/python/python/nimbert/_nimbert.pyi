"""What is written in Rust; for the package alone."""

import threading
from typing import final

VERSION: str

#: Seconds, what becomes of a long text, and what cancels.
_Call = tuple[float | None, str, threading.Event | None]

#: The fields of a prediction; those of the further tasks lie in a list.
_Row = tuple[
    str,
    float,
    list[str],
    bool,
    dict[str, float],
    list[float],
    list[str] | None,
    float | None,
    bool,
    str | None,
    list["_Row"],
]

@final
class Classifier:
    def __new__(cls, source: str | bytes, options: list[tuple[str, str]]) -> Classifier: ...
    def about(self) -> tuple[list[tuple[str | None, list[str]]], str, int, bool | None]: ...
    def classify(self, texts: object, pairs: object | None, call: _Call, first: int = 0) -> Rows: ...
    def explain(
        self, text: object, pair: object | None, of: tuple[str | None, str | None, str], call: _Call
    ) -> Explanation: ...

@final
class Explanation:
    def prediction(self) -> _Row: ...
    def words(self) -> list[tuple[int, int, bool, float]]: ...
    def about(self) -> tuple[str, float, float, int, str]: ...

@final
class Rows:
    def __len__(self) -> int: ...
    def row(self, index: int) -> _Row: ...
    def arrow_stream(self) -> object: ...
