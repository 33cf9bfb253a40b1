"""A cheap judge for every pair, an expensive one only where the cheap one is unsure.

P: pairs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit

from deepprune.core.errors import InputError
from deepprune.core.protocols import BoolArray, FloatArray, Need
from deepprune.core.types import Prefix, PrefixRule, TracePair
from deepprune.data.pairs import labels_of, questions_of
from deepprune.judge.base import Judge, JudgeProvenance, Prices
from deepprune.judge.calibration import Calibration, calibration_from_json
from deepprune.judge.loading import load_judge
from deepprune.judge.measure.metrics import auroc_within
from deepprune.judge.saved import (
    CASCADE,
    CPU_KINDS,
    CROSS_ENCODER,
    FORMAT,
    RECORD,
    damaged,
    needs_of,
    read_record,
    rule_from_json,
    rule_to_json,
    write_folder,
    write_json,
)
from deepprune.judge.score_cache import pair_key
from deepprune.judge.trained import TrainedJudge

CHEAP, EXPENSIVE = "cheap", "expensive"
"""Folders within an export, each an export itself."""

_EDGES = 21  # quantiles of the cheap scores at which a band may begin or end
_CACHED_SCORES = 65_536
_LEAST = 1e-6  # a score has log-odds from here to 1 less this


@dataclass(frozen=True, slots=True)
class Band:
    """The cheap scores from ``low`` to ``high``, both included; none where they are equal.

    Raises:
        ValueError: Unless ``0 <= low <= high <= 1``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"a band needs 0 <= low <= high <= 1, got {self.low} and {self.high}: scores are "
                "probabilities."
            )

    def has(self, scores: FloatArray) -> BoolArray:
        """Which scores lie in it, same shape."""
        return (scores >= self.low) & (scores <= self.high) & (self.low < self.high)


def merge(cheap: FloatArray, expensive: FloatArray, inside: BoolArray) -> FloatArray:
    """Log-odds of a cascade: the cheap judge's, and inside the band the mean of both judges'.

    Both are calibrated, so their log-odds can be averaged (a logarithmic opinion pool). On the
    unfinished pairs of 80 MATH-500 questions, with number overlap before boosted trees, the mean
    had a within-question AUROC of .621 with half of the pairs sent and .627 with all, the trees'
    log-odds alone .604 and .614: the latter throw away what has been paid for already.

    Args:
        cheap: Scores, shape ``(P,)``.
        expensive: Scores of the pairs inside, in their order.
        inside: Shape ``(P,)``.
    """
    merged = _log_odds(cheap)
    merged[inside] = (merged[inside] + _log_odds(expensive)) / 2
    return merged


def choose_band(
    cheap: FloatArray,
    expensive: FloatArray,
    labels: ArrayLike,
    questions: ArrayLike,
    tolerance: float,
) -> Band:
    """The band that sends the fewest pairs, within ``tolerance`` of the best within-question AUROC.

    Bands begin and end at 5 % quantiles of the cheap scores; no band and all scores are among
    them, so an expensive judge that is no better is never asked.

    Args:
        cheap: Scores, shape ``(P,)``.
        expensive: Scores of all these pairs, shape ``(P,)``.
        labels: 1 or 0, shape ``(P,)``.
        questions: The question of each pair, shape ``(P,)``.
        tolerance: AUROC that fewer calls may cost, >= 0.

    Raises:
        InputError: If no question has pairs of both classes.
    """
    edges = np.unique(np.quantile(cheap, np.linspace(0, 1, _EDGES)[1:-1])).tolist()
    bands = [Band(0, 0), *itertools.starmap(Band, itertools.combinations([0, *edges, 1], 2))]
    inside = [band.has(cheap) for band in bands]
    found = np.array(
        [auroc_within(merge(cheap, expensive[sent], sent), labels, questions) for sent in inside]
    )
    if np.isnan(found[0]):
        raise InputError(
            "a cascade's band is chosen by the within-question AUROC, and no validation question "
            "has pairs of both classes: give validation more questions (data.fractions)."
        )
    n_sent = np.where(found >= found.max() - tolerance, [sent.sum() for sent in inside], np.inf)
    return bands[int(n_sent.argmin())]


@dataclass(frozen=True, slots=True)
class Cascade:
    """What a cascade is made of; its folders' records are read at once, their weights when it is.

    Args:
        cheap: The export of the judge that scores every pair.
        expensive: The export of the judge that scores what lies in the band.
        tolerance: Within-question AUROC that fewer expensive calls may cost, see `choose_band`.
        device: Where neural networks compute: ``auto`` or a torch device.

    Raises:
        InputError: If a folder is no export, or ``tolerance`` is negative.
    """

    cheap: str
    expensive: str
    tolerance: float
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise InputError(f"model.tolerance must not be negative, got {self.tolerance}.")
        for folder in self.folders.values():
            read_record(folder)

    @property
    def folders(self) -> dict[str, Path]:
        """Both exports."""
        return {CHEAP: Path(self.cheap), EXPENSIVE: Path(self.expensive)}

    @property
    def needs(self) -> frozenset[Need]:
        """What both judges read."""
        return needs_of(Path(self.cheap)) | needs_of(Path(self.expensive))

    def check_unseen(self, seen: frozenset[str], tested: frozenset[str]) -> None:
        """Hold the questions of a run against those that its judges know.

        Neither the band nor the test may meet a question that a judge was trained on. Exports say
        which questions were used, not which of them for training: so a judge must know those of
        this run's training and validation, no more and no less, or none of its questions at all.

        Args:
            seen: Hashes of the training and validation questions, see ``data.splits``.
            tested: Hashes of the test questions.

        Raises:
            InputError: If a judge was fitted with another split of these questions.
        """
        for part, folder in self.folders.items():
            known = frozenset(read_record(folder)["seen_questions"])
            if known != seen and not known.isdisjoint(seen | tested):
                raise InputError(
                    "a cascade needs judges of its own split, or of other questions, and "
                    f"model.{part}={folder} was fitted with {len(known & seen)} of the {len(seen)} "
                    f"training and validation questions, {len(known & tested)} of the "
                    f"{len(tested)} test questions and {len(known - seen - tested)} others: use "
                    "the traces, data.fractions, split_seed, fold, models, datasets and "
                    "holdout_models of its run."
                )


class CascadeJudge(TrainedJudge):
    """Every pair is scored by the cheap judge, those in its uncertain band by the expensive too.

    It costs what the cheap judge costs, and for the pairs in the band what the expensive one does.
    What the expensive judge asks for prefixes rather than pairs is charged for all prefixes, which
    is at most too much.

    Args:
        cheap: Scores every pair; calibrated.
        expensive: Scores those in the band; calibrated.
        low: Where the band begins, a score of the cheap judge.
        high: Where it ends, likewise; with ``low == high`` nothing is sent.
        calibration: Merged log-odds (`merge`) to scores.
        name: Short name for tables.
        seen_questions: Hashes of the questions used for choosing the band; what its judges have
            seen is added.

    Raises:
        ValueError: If the band is none.
    """

    def __init__(
        self,
        cheap: Judge,
        expensive: Judge,
        low: float,
        high: float,
        *,
        calibration: Calibration | None = None,
        name: str = "cascade",
        seen_questions: frozenset[str] = frozenset(),
    ) -> None:
        judges = cheap, expensive
        seen = seen_questions.union(*(judge.provenance.seen_questions for judge in judges))
        super().__init__(calibration, name=name, seen_questions=seen)
        self.cheap, self.expensive, self.band = cheap, expensive, Band(low, high)
        self.is_model = cheap.is_model or expensive.is_model
        self.is_symmetric = cheap.is_symmetric and expensive.is_symmetric
        self.needs = cheap.needs | expensive.needs
        self.reads_peers = cheap.reads_peers or expensive.reads_peers
        self._known: dict[bytes, float] = {}

    @classmethod
    def fit(
        cls,
        pairs: Sequence[TracePair],
        settings: Cascade,
        *,
        seen_questions: frozenset[str] = frozenset(),
    ) -> CascadeJudge:
        """Load both judges and choose the band on labelled pairs that neither was trained on.

        Args:
            pairs: Validation pairs; those of which neither prefix is finished decide, where there
                are some.
            settings: Which judges, and how narrow.
            seen_questions: Hashes of their questions.

        Raises:
            InputError: If a judge cannot be read, or no question has pairs of both classes.
        """
        cheap, expensive = (_load(folder, settings.device) for folder in settings.folders.values())
        judge = cls(cheap, expensive, 0, 0, seen_questions=seen_questions)
        pairs = [pair for pair in pairs if pair.is_unfinished] or pairs
        judge.band = choose_band(
            judge._scores(cheap, pairs),  # remembered, for the calibration
            judge._scores(expensive, pairs),
            labels_of(pairs),
            questions_of(pairs),
            settings.tolerance,
        )
        return judge

    @property
    def provenance(self) -> JudgeProvenance:
        """Its fingerprint follows from both judges', the band and the calibration."""
        parts = [judge.provenance.fingerprint for judge in (self.cheap, self.expensive)]
        fingerprint = None
        if None not in parts:
            settings = json.dumps(
                [parts, self.band.low, self.band.high, self.calibration.to_json()], sort_keys=True
            )
            fingerprint = hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
        return JudgeProvenance(self._name, fingerprint, self._seen, self._path)

    def logits(self, pairs: Sequence[TracePair]) -> FloatArray:
        """Merged log-odds, shape ``(len(pairs),)``."""
        cheap = self._scores(self.cheap, pairs)
        inside = self.band.has(cheap)
        sent = list(itertools.compress(pairs, inside))
        return merge(cheap, self._scores(self.expensive, sent) if sent else np.empty(0), inside)

    def sends(self, pairs: Sequence[TracePair]) -> BoolArray:
        """Which pairs the expensive judge scores, shape ``(len(pairs),)``."""
        return self.band.has(self._scores(self.cheap, pairs))

    def said(self, pairs: Sequence[TracePair]) -> str:
        """The band in words, and how many of these pairs lie in it."""
        share, band = self.sends(pairs).mean(), self.band
        if band.low == band.high:
            return "the expensive judge is of no use beside the cheap one: no pair is sent to it"
        return (
            f"scores of the cheap judge from {band.low:.3f} to {band.high:.3f} are uncertain: "
            f"{share:.0%} of the validation pairs go to the expensive one"
        )

    def pair_prices(self, pairs: Sequence[TracePair]) -> Prices:
        """The cheap judge's, and in the band the expensive judge's as well."""
        inside = self.sends(pairs)
        prices = Prices(*(part.copy() for part in self.cheap.pair_prices(pairs)))
        if sent := list(itertools.compress(pairs, inside)):
            dear = self.expensive.pair_prices(sent)
            prices.tokens[inside] += dear.tokens
            prices.flops[inside] += dear.flops
        return prices

    def prefix_prices(self, prefixes: Sequence[Prefix]) -> Prices:
        """What both judges ask for each prefix."""
        cheap, dear = (j.prefix_prices(prefixes) for j in (self.cheap, self.expensive))
        return Prices(cheap.tokens + dear.tokens, cheap.flops + dear.flops)

    def export(
        self,
        folder: Path | str,
        *,
        prefix_rule: PrefixRule | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder that ``load`` reads, atomically: the band, and both judges' exports.

        Args:
            folder: Where to; it must not exist.
            prefix_rule: The prefixes it was made for, for whoever loads it.
            training: JSON values to keep with it: settings, numbers of pairs.

        Raises:
            InputError: If the folder exists, or a judge was never trained.
        """

        def fill(temporary: Path) -> None:
            _copy(self.cheap, temporary / CHEAP)
            _copy(self.expensive, temporary / EXPENSIVE)
            write_json(
                temporary / RECORD,
                {
                    "format": FORMAT,
                    "kind": CASCADE,
                    "name": self._name,
                    "needs": sorted(self.needs),
                    "band": [self.band.low, self.band.high],
                    "calibration": self.calibration.to_json(),
                    "prefix_rule": rule_to_json(prefix_rule),
                    "seen_questions": sorted(self._seen),
                    "training": dict(training or {}),
                    "fingerprint": self.provenance.fingerprint,
                },
            )

        return write_folder(Path(folder), fill)

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", backbone: str | None = None
    ) -> CascadeJudge:
        """Read an export.

        Args:
            path: What ``export`` wrote.
            device: Where neural networks compute: ``auto`` or a torch device.
            backbone: The source that the expensive judge must have been trained from; ``None`` for
                any.

        Raises:
            InputError: If files are missing or changed, or device and backbone do not fit it.
        """
        folder = Path(path)
        values = read_record(folder)
        try:
            low, high = values["band"]
            rule_from_json(values["prefix_rule"])
            judge = cls(
                _load(folder / CHEAP, device),
                _load(folder / EXPENSIVE, device, backbone),
                low,
                high,
                calibration=calibration_from_json(values["calibration"]),
                name=values["name"],
                seen_questions=frozenset(values["seen_questions"]),
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder, error) from error
        judge._path = folder
        return judge

    def _scores(self, judge: Judge, pairs: Sequence[TracePair]) -> FloatArray:
        """Either judge's scores, remembered where they follow from the two prefixes alone."""
        fingerprint = judge.provenance.fingerprint
        if fingerprint is None or judge.reads_peers:
            return judge.score(pairs)
        keys = [pair_key(fingerprint, pair) for pair in pairs]
        todo = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        if len(self._known) + len(todo) > _CACHED_SCORES:
            self._known.clear()
            todo = dict(zip(keys, pairs, strict=True))
        if todo:
            found = judge.score(list(todo.values()))
            self._known.update(zip(todo, found.tolist(), strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.float64)


def _log_odds(scores: FloatArray) -> FloatArray:
    return np.asarray(logit(np.clip(scores, _LEAST, 1 - _LEAST)))


def _load(folder: Path, device: str, backbone: str | None = None) -> Judge:
    """A judge that needs no device is given none."""
    kind = read_record(folder).get("kind", CROSS_ENCODER)
    return load_judge(folder, "auto" if kind in CPU_KINDS else device, backbone)


def _copy(judge: Judge, folder: Path) -> None:
    """The judge's export, as it lies on disk where it does."""
    if (path := judge.provenance.path) is not None:
        shutil.copytree(path, folder)
    elif isinstance(judge, TrainedJudge):
        judge.export(folder)
    else:
        raise InputError(
            f"only trained judges are exported, and {judge.provenance.name!r} is none: train one, "
            "as python train.py model=features does."
        )
