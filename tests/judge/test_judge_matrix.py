"""A judge in a cell: paired differences, rows that are read back; scores before and after."""

from pathlib import Path

import numpy as np
import pytest
from builders import group

from deepprune.data.pairs import build_pairs
from deepprune.data.prefixes import FirstTokens
from deepprune.judge.base import JudgeProvenance
from deepprune.judge.baselines import CoinJudge, LexicalJudge, OracleJudge, QuestionOnlyJudge
from deepprune.judge.calibration import Platt
from deepprune.judge.measure.bootstrap import QuestionDraws, estimates_by_part
from deepprune.judge.measure.matrix import CellFacts, cell_rows, read_matrix, write_matrix
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.judge.score_cache import ScoreCache, cached_scores
from deepprune.judge.trained import TrainedJudge
from deepprune.report.figures import matrix_figure, reliability_figure
from deepprune.report.tables import difference_table, matrix_tables

FACTS = CellFacts("store.parquet", "toy", "tiny", "first_tokens", 5, "FirstTokens(k=5)", 0)
ANSWERS = ["aaab", "aabb", "abcc", "aaaa", "abbb", "aabc"]


def pairs():
    groups = [group(list(a), name=f"q{i}") for i, a in enumerate(ANSWERS)]
    return [p for g in groups for p in build_pairs(g, FirstTokens(5))]


class Counted(TrainedJudge):
    """The first prefix's number of characters as a logit; counts the pairs that it is asked."""

    is_model = True
    settings = _identity = _write_files = _from_record = None  # it is never exported

    def __init__(self):
        super().__init__(name="counted")
        self.calibration = Platt(0.1, -2)
        self.n_asked = 0

    @property
    def provenance(self):
        return JudgeProvenance("counted", "counted-v1")

    def logits(self, pairs):
        self.n_asked += len(pairs)
        return np.array([len(p.first.text) + float(p.label) for p in pairs])


def test_differences_are_paired_and_the_oracle_is_clear_of_a_coin(tmp_path):
    judges = {"oracle": OracleJudge(), "coin": CoinJudge()}
    baselines = {"coin again": CoinJudge(), "question_only": QuestionOnlyJudge()}
    rows = cell_rows(FACTS, pairs(), judges, baselines, seed=0)
    assert [r["judge"] for r in rows] == ["oracle", "coin", "coin again", "question_only"]
    assert [r["is_baseline"] for r in rows] == [False, False, True, True]
    assert (rows[0]["n_questions"], rows[0]["n_pairs"]) == (6, 36)
    assert rows[0]["n_questions_both"] == 5  # not that of "aaaa"
    assert rows[0]["metrics"]["auroc_within"] == (1, 1, 1)
    assert rows[3]["metrics"]["auroc_within"] == (0.5, 0.5, 0.5)
    assert set(rows[1]["minus"]["coin again"]["auroc"]) == {0}
    against = rows[0]["minus"]["question_only"]["auroc"]
    assert against.value == pytest.approx(1 - rows[3]["metrics"]["auroc"].value)
    assert against.low > 0
    write_matrix(tmp_path / "matrix.jsonl", rows)
    read = read_matrix(tmp_path / "matrix.jsonl")
    assert CellFacts.of(read[0]) == FACTS
    assert str(read[0]["minus"]) == str(rows[0]["minus"])  # NaN differs from itself
    assert read[0]["metrics"].keys() == rows[0]["metrics"].keys()
    (table,) = matrix_tables(read)
    assert "6 questions (5 questions have both classes); 36 pairs, 6 a" in str(table.title)
    assert difference_table(read).row_count == 4
    assert matrix_figure(read, tmp_path / "m.png").stat().st_size > 10_000
    assert cell_rows(FACTS, [], judges, baselines, seed=0) == []


def test_pairs_are_scored_once_for_before_and_after(tmp_path):
    """Killed and started again, only pairs without a recorded score are asked for."""
    judge, chosen = Counted(), pairs()
    with ScoreCache(tmp_path / "scores.sqlite") as cache:
        cached_scores(judge, cache, chosen[:20])
        calibrated = cached_scores(judge, cache, chosen)
        assert judge.n_asked == len(chosen)
    raw = judge.calibration.undo(calibrated)
    assert raw == pytest.approx(1 / (1 + np.exp(-judge.logits(chosen))))
    before, after = (PairScores.of(chosen, scores) for scores in (raw, calibrated))
    draws = QuestionDraws(before.question, seed=0)
    assert draws.estimates(after)["brier"].value < draws.estimates(before)["brier"].value
    assert reliability_figure(before, after, tmp_path / "r.png").stat().st_size > 10_000


def test_scores_among_peers_are_not_kept():
    judge, cache = Counted(), ScoreCache()
    judge.reads_peers = True
    for _ in range(2):
        cached_scores(judge, cache, pairs())
    assert judge.n_asked == 2 * len(pairs())


def test_parts_are_measured_where_there_are_several():
    """The half of model b is its own part; ``all`` is both."""
    chosen = pairs()
    scored = PairScores.of(chosen, OracleJudge().score(chosen))
    scored.model[::2] = "b"
    parts = estimates_by_part(chosen, scored, QuestionDraws(scored.question, seed=0))
    assert list(parts) == ["all", "model=b", "model=tiny"]
    assert [part["n_pairs"].value for part in parts.values()] == [36, 18, 18]
    assert parts["all"]["same_share"] == (scored.labels.mean(),) * 3


def test_a_row_without_unfinished_pairs_is_null_not_zero(tmp_path):
    groups = [group(list(a), name=f"q{i}") for i, a in enumerate(ANSWERS)]
    finished = [p for g in groups for p in build_pairs(g, FirstTokens(50))]
    rows = cell_rows(FACTS, finished, {"lexical": LexicalJudge()}, {}, seed=0)
    assert rows[0]["n_pairs_unfinished"] == 0
    write_matrix(tmp_path / "matrix.jsonl", rows)
    assert '"auroc_unfinished": [null, null, null]' in (tmp_path / "matrix.jsonl").read_text()
    assert matrix_figure(rows, tmp_path / "m.png").exists()
    matrix_tables(rows)


def test_rows_of_version_0_1_are_read():
    row, *_ = read_matrix(Path(__file__).parents[1] / "old" / "report" / "matrix.jsonl")
    assert row["metrics"]["tnr_at_fnr_20"].value == pytest.approx(1 / 3)
    assert row["minus"]["lexical"]["tnr_at_fnr_20_unfinished"].value == 0.5
    assert "2 questions; 8 pairs, 4 a question, 25 % same, 4 both" in matrix_tables([row])[0].title
