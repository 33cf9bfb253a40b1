"""Sets of questions: files, data sets of the Hugging Face hub, generators, trace stores."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isnan
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepprune.core.errors import InputError
from deepprune.core.options import Count, checked
from deepprune.core.seeding import generator
from deepprune.core.types import Question
from deepprune.traces.opening import open_traces
from deepprune.traces.records import json_lines
from deepprune.traces.source import gold_of, question_id_of, whole

Cells = Mapping[str, Any]


@checked
@dataclass(frozen=True, kw_only=True)
class QuestionSource(ABC):
    """A set of questions.

    Attributes:
        ids: Only the questions with these ids, in this order; ``None`` for all.
        limit: Only the first ``limit`` questions of these, >= 1; ``None`` for all.
    """

    ids: Sequence[str] | None = None
    limit: Count | None = None

    def __post_init__(self) -> None:
        if self.ids is not None and not self.ids:
            raise ValueError("ids is empty: name at least one question, or give null for all.")

    def load(self) -> list[Question]:
        """Read the questions.

        Raises:
            InputError: If the source cannot be read, is empty, or has an id twice; if an id is
                unknown.
        """
        questions: dict[tuple[str, str], Question] = {}
        for question in self._read():
            if question.key in questions:
                raise InputError(
                    f"a question_id must be unique, but {self._name} has {question.question_id!r} "
                    "twice. Without a question_id column it is a hash of the text: remove the "
                    "repeated question."
                )
            questions[question.key] = question
        if not questions:
            raise InputError(f"{self._name} has no questions.")
        if self.ids is None:
            return list(questions.values())[: self.limit]
        known = {question.question_id: question for question in questions.values()}
        if len(known) < len(questions):
            raise InputError("questions.ids needs ids that are unique over all data sets.")
        wanted = list(dict.fromkeys(map(str, self.ids)))
        if unknown := [id_ for id_ in wanted if id_ not in known]:
            near = get_close_matches(unknown[0], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the first is {next(iter(known))}."
            raise InputError(f"{self._name} has no question {unknown[0]!r}; {hint}")
        return [known[id_] for id_ in wanted][: self.limit]

    @property
    @abstractmethod
    def _name(self) -> str:
        """Description of the source in messages."""

    @abstractmethod
    def _read(self) -> Iterator[Question]:
        """Yield all questions in the order of the source."""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns. The columns ``gold`` and ``question_id`` may be missing.

    Attributes:
        question: Text of the question.
        gold: The correct answer; ``None`` without one.
        question_id: Identifier of the question; ``None`` for a hash of its text.
        wrong: Wrong choices of a multiple-choice question; ``gold`` is then the correct choice. The
            choices are shuffled, lettered and appended to the question.
    """

    question: str = "question"
    gold: str | None = "gold"
    question_id: str | None = "question_id"
    wrong: Sequence[str] = ()

    @property
    def required(self) -> list[str]:
        """Columns that must exist: all but ``gold`` and ``question_id`` under their usual names."""
        may_be_missing = ("question_id",) if self.wrong else ("gold", "question_id")
        named = (self.question, self.gold, self.question_id, *self.wrong)
        return [name for name in named if name is not None and name not in may_be_missing]


@dataclass(frozen=True, kw_only=True)
class _Table(QuestionSource):
    """Questions in the rows of a table.

    Attributes:
        dataset: Name of the data set in records.
        columns: Names of its columns.
        where: Text that a row must contain, by column.
        seed: Decides the order of the choices of each question.
    """

    dataset: str | None = None
    columns: Columns = field(default_factory=Columns)
    where: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        QuestionSource.__post_init__(self)
        if self.columns.wrong and self.columns.gold is None:
            raise ValueError("columns.wrong needs columns.gold, the correct choice.")
        if len(self.columns.wrong) >= len(ascii_uppercase):
            raise ValueError(
                f"choices are lettered A to Z, so columns.wrong must be at most "
                f"{len(ascii_uppercase) - 1} columns, got {len(self.columns.wrong)}."
            )

    def _questions(self, rows: Iterable[Cells], dataset: str) -> Iterator[Question]:
        """Yield the questions of rows; messages number the rows from 1."""
        for number, row in enumerate(rows, 1):
            for name in (*self.columns.required, *self.where):
                if name not in row:
                    raise InputError(
                        f"{self._name} has no column {name!r}; it has {', '.join(row)}. Name the "
                        "right one with questions.columns.question=NAME; set "
                        "questions.columns.gold and .question_id in the same way, to null if there "
                        "is none."
                    )
            if all(text in str(row[name]) for name, text in self.where.items()):
                yield self._question(row, dataset, number)

    def _question(self, row: Cells, dataset: str, number: int) -> Question:
        columns = self.columns
        text = self._cell(row, columns.question, number)
        if text is None or not isinstance(row[columns.question], str):
            raise self._unfit(row, columns.question, number, "must be a text in every row")
        question_id = self._cell(row, columns.question_id, number) or question_id_of(text)
        gold = self._cell(row, columns.gold, number)
        if columns.wrong:
            choices = self._choices(row, number)
            text, gold = lettered(text.strip(), choices, self.seed, question_id)
        return Question(dataset, question_id, text, gold_of(gold))

    def _choices(self, row: Cells, number: int) -> list[str]:
        """Return the choices of a question, the correct one first."""
        choices: dict[str, str] = {}  # and their columns
        for name in filter(None, (self.columns.gold, *self.columns.wrong)):
            choice = (self._cell(row, name, number) or "").strip()
            if not choice:
                raise self._unfit(row, name, number, "must be a choice in every row")
            if choice in choices:
                rule = f"must differ from {choices[choice]}"
                raise self._unfit(row, name, number, rule)
            choices[choice] = name
        return list(choices)

    def _cell(self, row: Cells, name: str | None, number: int) -> str | None:
        """Return a text or number as text; ``None`` if it is missing, blank or NaN."""
        value = None if name is None else row.get(name)
        if isinstance(value, list | tuple | dict | bytes):
            raise self._unfit(row, str(name), number, "must be a text or a number")
        is_nan = isinstance(value, float) and isnan(value)
        return None if value is None or is_nan or not str(value).strip() else whole(str(value))

    def _unfit(self, row: Cells, name: str, number: int, rule: str) -> InputError:
        return InputError(
            f"{name} {rule}, but row {number} of {self._name} has {str(row[name])[:40]!r}."
        )


def lettered(text: str, choices: Sequence[str], seed: int, question_id: str) -> tuple[str, str]:
    """Append lettered choices to a question; return it with the letter of ``choices[0]``.

    The order of the choices depends on the seed and the question alone.

    >>> text, gold = lettered("2 + 2?", ["4", "3", "5"], seed=0, question_id="q")
    >>> print(text, gold, sep="|")
    2 + 2?
    <BLANKLINE>
    A) 5
    B) 3
    C) 4|C
    """
    order = generator(seed, question_id, "choices").permutation(len(choices)).tolist()
    letters = ascii_uppercase[: len(choices)]
    lines = [f"{letter}) {choices[i]}" for letter, i in zip(letters, order, strict=True)]
    return "\n".join([text, "", *lines]), letters[order.index(0)]


@checked
@dataclass(frozen=True, kw_only=True)
class QuestionFile(_Table):
    """Questions in a JSON lines or Parquet file, one per row.

    Without ``dataset`` the data set is named after the file.

    Attributes:
        path: A ``.jsonl`` or ``.parquet`` file.
    """

    path: str

    @property
    def _name(self) -> str:
        return repr(self.path)

    def _read(self) -> Iterator[Question]:
        path = Path(self.path)
        if not path.is_file() or path.suffix not in (".jsonl", ".parquet"):
            raise InputError(
                f"questions.path must be a .jsonl or .parquet file that exists, got {self.path!r}."
            )
        if path.suffix == ".jsonl":
            rows = _json_rows(path)
        else:
            try:
                rows = pq.read_table(path).to_pylist()
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"{self.path!r} cannot be read as Parquet ({reason}).") from error
        yield from self._questions(rows, self.dataset or path.stem)


def _json_rows(path: Path) -> list[Cells]:
    """Return the lines with the same columns; missing values are ``None``."""
    rows = [row for _, row in json_lines(path)]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


@checked
@dataclass(frozen=True, kw_only=True)
class HubQuestions(_Table):
    """Questions of a data set of the Hugging Face hub; needs the package ``datasets``.

    Data sets that need ``trust_remote_code`` are refused: they run code of others.

    Attributes:
        path: Name on the hub, or a local folder of data files with the same columns.
        name: Configuration of the data set, if it has several.
        split: Name of the split.
        revision: Commit, tag or branch; ``None`` for the newest.
    """

    path: str
    split: str = "test"
    name: str | None = None
    revision: str | None = None

    @property
    def _name(self) -> str:
        return f"{self.path!r} ({self.split})"

    def _read(self) -> Iterator[Question]:
        try:
            import datasets
        except ImportError as error:
            raise InputError(
                "questions of the hub need the package datasets: pip install 'deepprune[questions]'"
                ". Without it, questions=file reads JSON lines and Parquet."
            ) from error
        is_local = Path(self.path).is_dir()
        try:
            rows = datasets.load_dataset(
                self.path, None if is_local else self.name, split=self.split, revision=self.revision
            )
        except Exception as error:  # the hub raises a dozen classes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the data set {self._name} cannot be loaded ({reason}). Check its name and the "
                "connection to the hub; for a gated data set, accept its terms and set HF_TOKEN. "
                "questions=file reads a local copy."
            ) from error
        yield from self._questions(rows, self.dataset or self.path)


@checked
@dataclass(frozen=True, kw_only=True)
class GeneratedQuestions(QuestionSource):
    """Questions generated by reasoning-gym, with gold answers.

    Answers are compared by ``deepprune.answers``, not by a task's own scoring: use tasks with one
    plain answer (numbers, formulas, words).

    Attributes:
        tasks: Names of reasoning-gym tasks; each is a data set ``reasoning_gym/TASK``.
        size: Questions per task.
        seed: Decides the questions.
    """

    tasks: Sequence[str]
    size: Count = 20
    seed: int = 0

    @property
    def _name(self) -> str:
        return f"reasoning_gym {list(self.tasks)}"

    def _read(self) -> Iterator[Question]:
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError as error:
            raise InputError(
                "questions=reasoning_gym needs the package reasoning-gym: "
                "pip install 'deepprune[questions]'."
            ) from error
        for task in dict.fromkeys(self.tasks):
            if task not in DATASETS:
                near = get_close_matches(task, DATASETS, 1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(DATASETS)}."
                raise InputError(f"reasoning_gym has no task {task!r}; {hint}")
            entries = reasoning_gym.create_dataset(task, size=self.size, seed=self.seed)
            for i, entry in enumerate(entries):
                gold = entry["answer"]
                yield Question(
                    f"reasoning_gym/{task}",
                    f"{task}-{self.seed}-{i}",
                    whole(entry["question"]),
                    None if gold is None else whole(str(gold)),
                )


@checked
@dataclass(frozen=True, kw_only=True)
class RecordedQuestions(QuestionSource):
    """The questions of a trace store, with their data sets, ids and gold answers.

    Attributes:
        traces: ``pool``, a store, or a file, see `open_traces`.
        datasets: Only these data sets of the store; ``None`` for all.
    """

    traces: str = "pool"
    datasets: Sequence[str] | None = None

    @property
    def _name(self) -> str:
        return f"the store {self.traces!r}"

    def _read(self) -> Iterator[Question]:
        refs = open_traces(self.traces).refs(datasets=self.datasets)
        yield from dict.fromkeys(ref.question for ref in refs)


def questions_hash(questions: Sequence[Question]) -> str:
    """Hash questions and gold answers, in order, to identify a question set."""
    rows = [[q.dataset, q.question_id, q.text, q.gold] for q in questions]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
