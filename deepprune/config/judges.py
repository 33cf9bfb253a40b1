"""The judges of ``sweep.judges``, beside the one of ``judge=`` or of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.protocols import Need
from deepprune.core.types import QuestionRef
from deepprune.data.splits import question_hash
from deepprune.judge.base import Judge
from deepprune.judge.baselines import CoinJudge, LengthOnlyJudge, LexicalJudge, OracleJudge
from deepprune.judge.loading import load_judge
from deepprune.judge.saved import RECORD, read_record


@dataclass(frozen=True)
class FurtherJudge:
    """A judge of ``sweep.judges`` before it is loaded.

    Attributes:
        needs: What it reads of the traces.
        load: Loads it.
        sha256: Identifies an export; ``None`` for a judge without a folder.
        seen_questions: Hashes of the questions that it was trained on.
    """

    needs: frozenset[Need]
    load: Callable[[], Judge]
    sha256: str | None = None
    seen_questions: frozenset[str] = frozenset()


def further_judges(entries: Sequence[str], seed: int) -> dict[str, FurtherJudge]:
    """The judges that ``entries`` name, by entry; loads none.

    Args:
        entries: Names of judges without settings, exports, or folders of runs that have one.
        seed: Seed of the coin.

    Raises:
        InputError: If an entry is none of these, or is there twice.
    """
    named: dict[str, Callable[[], Judge]] = {
        "lexical": LexicalJudge,
        "length_only": LengthOnlyJudge,
        "sentence_embedding": sentence_embedding,
        "oracle": OracleJudge,
        "coin": partial(CoinJudge, seed),
    }
    found: dict[str, FurtherJudge] = {}
    for entry in entries:
        if entry in found:
            raise InputError(f"sweep.judges has {entry} twice: name each judge once.")
        if entry in named:
            found[entry] = FurtherJudge(Judge.needs, named[entry])
        elif (folder := export_folder(entry)) is not None:
            found[entry] = FurtherJudge(
                read_record(folder).needs,
                partial(load_judge, folder),
                export_hash(folder),
                read_record(folder).seen_questions,
            )
        else:
            raise InputError(
                f"sweep.judges takes {', '.join(named)} or the folders of runs of train.py, got "
                f"{entry!r}."
            )
    return found


def check_unseen(further: Mapping[str, FurtherJudge], questions: Sequence[QuestionRef]) -> None:
    """Check that no judge was trained on the test questions of a training.

    Raises:
        InputError: If one was.
    """
    for entry, judge in further.items():
        n = sum(question_hash(ref.question.text) in judge.seen_questions for ref in questions)
        if n:
            raise InputError(
                f"sweep.judges has {entry}, which was trained on {n} of the {len(questions)} test "
                "questions: give one of the same split (data.split_seed, data.fold)."
            )


def all_judges(first: Judge, further: Mapping[str, FurtherJudge]) -> dict[str, Judge]:
    """``first`` and the loaded ``further`` ones by their names in the results, no two alike.

    Raises:
        InputError: If a judge is there twice.
    """
    judges = {first.provenance.name: first}
    for entry, each in further.items():
        judge = each.load()
        name = judge.provenance.name
        names = [name]
        if each.sha256 is not None:
            names += [f"{name} {run_of(Path(entry))}", f"{name} {entry}"]
        free = [name for name in names if name not in judges]
        if not free:
            raise InputError(f"sweep.judges has {entry}, which is the judge already: leave it out.")
        judges[free[0]] = judge
    return judges


def export_folder(path: str) -> Path | None:
    """The export in a folder, or in a run's folder, that the user named."""
    return next((f for f in (Path(path), Path(path) / "judge") if (f / RECORD).is_file()), None)


def export_hash(export: Path) -> str:
    """Identify a judge without loading it: its record has the hash of its weights."""
    return sha256_file(export / RECORD)


def run_of(export: Path) -> str:
    """The name of the run of an export ``runs/DIR/judge``; the whole path of other folders."""
    return export.parent.name if export.name == "judge" else str(export)


def sentence_embedding() -> Judge:
    """The judge ``sentence_embedding``; reads its model, so that a missing one is found now."""
    from deepprune.judge.features.embeddings import SentenceEmbeddingJudge  # torch only here

    judge = SentenceEmbeddingJudge()
    judge.read_model()
    return judge
