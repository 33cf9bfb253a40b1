"""Judges that options name: ``judge=``, ``sweep.judges``, ``baselines``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from hydra.utils import get_object
from omegaconf import DictConfig

from deepprune.config.instantiation import instantiated
from deepprune.config.plans import JudgeChoice
from deepprune.core.errors import InputError
from deepprune.core.files import sha256_file
from deepprune.core.protocols import Need
from deepprune.core.types import QuestionRef
from deepprune.data.splits import question_hash
from deepprune.judge.base import Judge
from deepprune.judge.baselines import (
    CoinJudge,
    LengthOnlyJudge,
    LexicalJudge,
    OracleJudge,
    QuestionOnlyJudge,
)
from deepprune.judge.loading import LEXICAL, load_judge
from deepprune.judge.saved import RECORD, find_backbone, read_record


def choose_judge(node: DictConfig) -> JudgeChoice:
    """Return the judge of ``judge=``; exports are read as far as ``judge.json``.

    Raises:
        InputError: If a folder is no export, or the backbone of one is missing.
    """
    named = [node.get(option) for option in ("path", "cheap", "expensive")]
    folders = [Path(name) for name in named if name not in (None, LEXICAL)]
    for folder in folders:
        if not (folder / RECORD).is_file():
            raise InputError(
                f"judge.path must be a folder that train.py has exported, got {str(folder)!r} "
                f"without {RECORD}: give the folder `judge` of its run."
            )
    needs = getattr(get_object(node._target_), "needs", Judge.needs)
    if folders:
        records = [find_backbone(f, read_record(f), node.get("backbone")) for f in folders]
        needs = frozenset[Need]().union(*(record.needs for record in records))
    hashes = " ".join(map(export_hash, folders))
    return JudgeChoice(needs, partial(instantiated, node), hashes or None)


def named_judges(seed: int) -> dict[str, Callable[[], Judge]]:
    """Return the judges without settings, by name; ``seed`` is the coin's."""
    return {
        "lexical": LexicalJudge,
        "length_only": LengthOnlyJudge,
        "question_only": QuestionOnlyJudge,
        "sentence_embedding": sentence_embedding,
        "oracle": OracleJudge,
        "coin": partial(CoinJudge, seed),
    }


def further_judges(entries: Sequence[str], seed: int) -> dict[str, JudgeChoice]:
    """Return the judges of ``sweep.judges`` by entry; loads none.

    Args:
        entries: Names of judges without settings, exports, or folders of runs that have one.
        seed: Seed of the coin.

    Raises:
        InputError: If an entry is none of these, or is there twice.
    """
    named = named_judges(seed)
    found: dict[str, JudgeChoice] = {}
    for entry in entries:
        if entry in found:
            raise InputError(f"sweep.judges has {entry} twice: name each judge once.")
        if entry in named:
            found[entry] = JudgeChoice(Judge.needs, named[entry])
        elif (folder := export_folder(entry)) is not None:
            found[entry] = chosen_export(folder)
        else:
            raise InputError(
                f"sweep.judges takes {', '.join(named)} or the folders of runs of train.py, got "
                f"{entry!r}."
            )
    return found


def chosen_export(folder: Path) -> JudgeChoice:
    """Return the trained judge of an export, not yet loaded.

    Raises:
        InputError: If its backbone is missing.
    """
    record = find_backbone(folder, read_record(folder))
    load = partial(load_judge, folder)
    return JudgeChoice(record.needs, load, export_hash(folder), record.seen_questions)


def check_unseen(further: Mapping[str, JudgeChoice], questions: Sequence[QuestionRef]) -> None:
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


def with_further(
    judges: Mapping[str, Judge], further: Mapping[str, JudgeChoice]
) -> dict[str, Judge]:
    """Load ``further`` and add them to ``judges``, by names for the results of which no two agree.

    Raises:
        InputError: If a judge is there twice.
    """
    judges = dict(judges)
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
    """Return the export in a folder or in the folder of its run, if there is one."""
    return next((f for f in (Path(path), Path(path) / "judge") if (f / RECORD).is_file()), None)


def export_hash(export: Path) -> str:
    """Identify a judge without loading it: its record has the hash of its weights."""
    return sha256_file(export / RECORD)


def run_of(export: Path) -> str:
    """Return ``DIR`` of an export ``runs/DIR/judge``, and the whole path of other folders."""
    return export.parent.name if export.name == "judge" else str(export)


def sentence_embedding() -> Judge:
    """Make the judge ``sentence_embedding`` and read its model, so that none is missed later."""
    from deepprune.judge.features.embeddings import SentenceEmbeddingJudge  # torch only here

    judge = SentenceEmbeddingJudge()
    judge.read_model()
    return judge
