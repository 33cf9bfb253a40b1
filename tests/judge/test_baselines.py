import subprocess
import sys

import numpy as np
import pytest
from builders import group, trace

from deepprune.core.types import Prefix, Question, TracePair
from deepprune.judge.baselines import (
    CoinJudge,
    LengthOnlyJudge,
    LexicalJudge,
    OracleJudge,
    QuestionOnlyJudge,
)
from deepprune.judge.measure.bootstrap import QuestionDraws, estimate
from deepprune.judge.measure.scored_pairs import PairScores

QUESTION = Question("toy", "q", "What?", "1")


def pair(first, second, classes=(0, 0)):
    traces = [
        trace(QUESTION, i, text, "1", answer_class)
        for i, (text, answer_class) in enumerate(zip((first, second), classes, strict=True))
    ]
    return TracePair(*(Prefix(t, t.n_tokens, is_finished=False) for t in traces))


def all_pairs(question):
    prefixes = [Prefix(t, t.n_tokens, is_finished=True) for t in question.traces]
    return [TracePair(a, b) for i, a in enumerate(prefixes) for b in prefixes[i + 1 :]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("12 apples", "12 pears and 3 plums", 1 / 2),  # numbers {12} and {12, 3}; no equations
        # numbers {3, 4, 7} and {3, 4, 8} share 2 of 4; equations {3+4=7} and {3+4=8} none
        ("3 + 4 = 7", "3 + 4 = 8", (2 / 4 + 0) / 2),
        (r"\( 3 \times 4 = 12 \)", r"so 3\times4=12", 1.0),  # spaces and delimiters aside
        ("$2 + 2 = 4$, 9", "2 + 2 = 4", (2 / 3 + 1) / 2),
        ("1,200 in all", "1200 in all", 1.0),
        ("let us think", "let us see", 0.5),  # no evidence
        ("let us think", "it is 5", 0.0),  # one has numbers, the other none
    ],
)
def test_lexical_score_by_hand(first, second, expected):
    judge = LexicalJudge()
    assert judge.score([pair(first, second)])[0] == pytest.approx(expected)
    assert judge.score([pair(second, first)])[0] == pytest.approx(expected)


def test_the_oracle_knows():
    pairs = all_pairs(group(["a", "b", "a", None, None]))
    scores = OracleJudge().score(pairs)
    assert scores.tolist() == [float(p.label or 0) for p in pairs]
    assert OracleJudge().provenance.fingerprint is None


def test_a_coin_is_a_function_of_seed_and_traces():
    pairs = all_pairs(group(["a"] * 10))
    scores = CoinJudge(1).score(pairs)
    assert (CoinJudge(1).score(pairs[::-1]) == scores[::-1]).all()
    swapped = [TracePair(p.second, p.first) for p in pairs]
    shorter = [
        TracePair(*(Prefix(x.trace, 3, is_finished=False) for x in (p.first, p.second)))
        for p in pairs
    ]
    assert (CoinJudge(1).score(swapped) == scores).all()
    assert (CoinJudge(1).score(shorter) == scores).all()
    assert (CoinJudge(2).score(pairs) != scores).all()
    assert CoinJudge().provenance.fingerprint is None


def test_a_coin_has_auroc_one_half():
    pairs = [p for q in range(30) for p in all_pairs(group(["a", "b"] * 5, name=f"q{q}"))]
    scored = PairScores.of(pairs, scores := CoinJudge().score(pairs))
    measures = QuestionDraws(scored.question, seed=0).measure(scored)
    assert 0.45 < np.mean(scores) < 0.55
    for metric in ("auroc", "auroc_within"):
        _, low, high = estimate(measures[metric])
        assert low < 0.5 < high


@pytest.mark.parametrize(
    "judge", [LexicalJudge(), LengthOnlyJudge(), QuestionOnlyJudge(), OracleJudge(), CoinJudge()]
)
def test_baselines_cost_calls_only(judge):
    pairs = all_pairs(group(["a", "b", "a"]))
    for prices in (judge.pair_prices(pairs), judge.prefix_prices([pairs[0].first])):
        assert not prices.tokens.any()
        assert not prices.flops.any()
    assert judge.score([]).shape == (0,)
    assert judge.is_symmetric


def test_baselines_need_no_torch():
    code = "import sys, deepprune.judge.baselines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_length_only_by_hand():
    """Two and four characters: 1/2, whichever comes first; nothing and nothing are alike."""
    judge = LengthOnlyJudge()
    pairs = [pair("ab", "abcd"), pair("abcd", "ab"), pair("", ""), pair("", "ab")]
    assert judge.score(pairs).tolist() == [0.5, 0.5, 1, 0]


def test_question_only_knows_how_often_a_question_agrees():
    """Of a, a, b one pair of three agrees; a trace without an answer agrees with none."""
    questions = [group(["a", "a", "b"]), group(["a", "a", "b", None], name="r")]
    pairs = [p for q in questions for p in all_pairs(q)]
    assert QuestionOnlyJudge().score(pairs).tolist() == pytest.approx([1 / 3] * 3 + [1 / 6] * 6)
    assert QuestionOnlyJudge().provenance.fingerprint is None
