"""What a classifier answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, overload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from . import _nimbert
    from ._nimbert import Rows, _Row


class Prediction(NamedTuple):
    """The answer for one text."""

    label: str
    """The label with the highest score."""
    score: float
    """Its score, between 0 and 1."""
    labels: list[str]
    """The labels that hold: ``label`` alone, or, where a text may have any number of labels, those that reach their
    thresholds: none, one or several."""
    abstained: bool
    """Whether the score is under the threshold that was set in training: ``label`` is a guess then."""
    scores: dict[str, float]
    """The score of each label, in the order of the labels' ids. Where a text has one label they sum to 1."""
    logits: list[float]
    """What the model gave for each label, in the same order: scores before softmax, or sigmoid."""
    set: list[str] | None
    """The labels among which the right one is in as many cases as the bundle says; ``None`` where it says nothing of it."""
    distance: float | None
    """How far the text is from those of training, 1 being the mean of theirs; ``None`` where the bundle says nothing of it."""
    unknown: bool
    """Whether that is more than the bundle's threshold: the text is like nothing in training, and ``label`` means nothing."""
    task: str | None
    """What the task is called that this is the answer to; ``None`` where the bundle has only one."""
    further: dict[str, Prediction]
    """The answers to the bundle's other tasks, by their names; of an explanation, none."""

    def top(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` most likely labels and their scores, best first."""
        return sorted(self.scores.items(), key=lambda item: -item[1])[:k]

    def to_dict(self) -> dict[str, object]:
        """The fields by name, for ``json.dumps`` and the like."""
        further = {task: prediction.to_dict() for task, prediction in self.further.items()}
        return {**self._asdict(), "further": further}


class Word(NamedTuple):
    """A word, or a sign, and what it does to the answer."""

    text: str
    """The word."""
    attribution: float
    """By how much it raises what is explained."""
    start: int
    """Where it begins in its text, in characters: ``text[start:end]`` is the word."""
    end: int
    """Where it ends."""
    is_of_pair: bool
    """Whether it is one of the second text of a pair."""


class Explanation(NamedTuple):
    """Why a text gets a label, or does not."""

    label: str
    """The label that is explained."""
    words: list[Word]
    """The words that are read, in their order; of a pair, all words."""
    value: float
    """What is explained: the label's logit, less the mean of all labels' where a text has one label."""
    base_value: float
    """The same of a text without words."""
    attribution: str
    """What the attributions are: ``leave-one-out`` or ``shapley``."""
    unread_words: int
    """Further words, which are cut off, since the text is too long."""
    prediction: Prediction
    """The answer to the task that is explained."""


def explanation_of(explained: _nimbert.Explanation, text: str, pair: str | None) -> Explanation:
    """An explanation of these texts from its parts as they come from Rust."""
    label, value, base_value, unread, attribution = explained.about()
    words = []
    for start, end, is_of_pair, of_word in explained.words():
        whole = pair or "" if is_of_pair else text
        words.append(Word(whole[start:end], of_word, start, end, is_of_pair))
    prediction = prediction_of(explained.prediction())
    return Explanation(label, words, value, base_value, attribution, unread, prediction)


def prediction_of(row: _Row) -> Prediction:
    """A prediction from its fields as they come from Rust."""
    *fields, further = row
    return Prediction._make([*fields, {of_task[-2]: prediction_of(of_task) for of_task in further}])


class Predictions:
    """The answers of one call, in the order of its texts: a sequence of :class:`Prediction`, and an Arrow table.

    ``pyarrow.table(predictions)`` and ``polars.DataFrame(predictions)`` have the columns ``label`` (string), ``score``
    (float32), ``labels`` (list of strings), ``abstained`` (bool), ``scores``, a struct of a float32 for each label, in
    the order of the labels' ids, ``set`` (list of strings, or null), ``distance`` (float32, or null) and ``unknown`` (bool).
    Of a bundle with several tasks these are the first one's, and ``further`` is a struct of such a struct for each other.
    Objects are made only of the rows that are looked at.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int, /) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Prediction]: ...
    def __getitem__(self, index: int | slice, /) -> Prediction | list[Prediction]:
        # A range knows negative numbers, steps, and what is out of range.
        rows = range(len(self._rows))[index]
        if isinstance(rows, int):
            return prediction_of(self._rows.row(rows))
        return [prediction_of(self._rows.row(row)) for row in rows]

    def __iter__(self) -> Iterator[Prediction]:
        return map(self.__getitem__, range(len(self._rows)))

    def __repr__(self) -> str:
        return f"<{len(self)} nimbert.Predictions>"

    def __reduce__(self) -> tuple[type[list[Prediction]], tuple[list[Prediction]]]:
        """Other processes get them as a list."""
        return list, (list(self),)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """For Arrow's libraries. Another schema than ours is not made, which the interface allows."""
        return self._rows.arrow_stream()
