"""Columns of forced answers, a judge on them, and whose bill they are on."""

from dataclasses import replace

import numpy as np
import pytest
from builders import group, with_forced_answers
from linear_judges import fitted

from deepprune.config.judges import chosen_export
from deepprune.core.errors import InputError
from deepprune.core.step_times import StepTimes
from deepprune.core.types import NO_ANSWER, Prefix, QuestionRef, TracePair
from deepprune.data.pairs import labels_of, questions_of
from deepprune.data.prefixes import FirstTokens
from deepprune.evaluation.grid import Point
from deepprune.evaluation.ledger import GeneratorSize
from deepprune.evaluation.outcomes import FIELDS
from deepprune.evaluation.runner import QuestionRunner, Task
from deepprune.evaluation.selection import check_judge_needs, check_needs
from deepprune.judge.base import Judge
from deepprune.judge.baselines import OracleJudge
from deepprune.judge.features.forced_answers import NAMES, columns
from deepprune.judge.measure.metrics import judge_metrics
from deepprune.judge.score_cache import ScoreCache
from deepprune.pruning.policies.consensus import Consensus
from deepprune.pruning.policies.deepprune import DeepPrune
from deepprune.pruning.replay import ReplayEngine

STEPS = StepTimes(2, 1, 0.1, 100)


def pair(first, second, n_tokens=100, length=100):
    """Prefixes of two traces of ``length`` tokens whose answers were forced every 10 tokens."""
    traces = with_forced_answers(group(["a", "b"], length), [first, second], every=10).traces
    return TracePair(*(Prefix(t, n_tokens, n_tokens >= length) for t in traces))


def planted(n_questions=12, n_traces=6, seed=0):
    """Pairs of traces whose forced answers settle on the final answer, early or late."""
    rng = np.random.default_rng(seed)
    pairs = []
    for q in range(n_questions):
        answers = rng.choice(list("ab"), n_traces).tolist()
        traces = group(answers, 60, name=f"{seed}/{q}")
        guesses = [
            np.where(rng.random(5) < 0.7, t.answer_class, rng.integers(4, size=5)).tolist()
            for t in traces.traces
        ]
        traces = with_forced_answers(traces, guesses, every=10).traces
        prefixes = [Prefix(t, 50, is_finished=False) for t in traces]
        pairs += [TracePair(a, b) for i, a in enumerate(prefixes) for b in prefixes[i + 1 :]]
    return pairs


@pytest.fixture(scope="module")
def judge():
    return fitted(planted(), ("forced_answers",))


def test_features_by_hand():
    """Answers 1 2 2 2 and - 2 - 3: the second's are none, 2, 2 (it stands), 3.

    They agree at checkpoints 2 and 3. Of the first's checkpoints 3 in 4 have 2 and none 3, of the
    second's 2 in 4 have 2: 3/4 * 2/4 is the chance that two drawn ones agree.
    """
    found = columns([pair([1, 2, 2, 2], [NO_ANSWER, 2, NO_ANSWER, 3])])
    assert dict(zip(NAMES, found[0].tolist(), strict=True)) == pytest.approx(
        {
            "forced_latest_agree": 0,
            "forced_latest_differ": 1,
            "forced_agreement_last_3": 2 / 3,
            "forced_agreement_all": 2 / 4,
            "forced_similarity": 3 / 4 * 2 / 4,
            "forced_latest_in_other_low": 0,
            "forced_latest_in_other_high": 2 / 4,
            "forced_latest_run_low": 1,
            "forced_latest_run_high": 3,
            "forced_answered_low": 2 / 4,
            "forced_answered_high": 1,
            "forced_checkpoints_low": 4,
            "forced_checkpoints_high": 4,
        }
    )


def test_the_answer_of_a_shorter_history_stands():
    """After 7 the first gives no more: it agrees with 1 7 7 at checkpoints 2 and 3."""
    found = columns([pair([1, 7], [1, 7, 7])])[0]
    assert found[NAMES.index("forced_agreement_all")] == 1
    assert found[NAMES.index("forced_checkpoints_low")] == 2


def test_without_answers_there_is_nothing():
    empty, missing = pair([], []), pair([NO_ANSWER], [3])
    found = columns([empty, missing])
    assert not found[0].any()
    assert found[1, :2].tolist() == [0, 0]  # neither agree nor differ
    assert columns([]).shape == (0, len(NAMES))


def test_nothing_after_the_prefix_matters_nor_does_the_final_answer():
    """Two forced answers lie within 25 tokens; what follows, final answers included, may be
    anything."""
    one, other = pair([1, 2, 2], [1, 3, 3], 25), pair([1, 2, 9, 9], [1, 3], 25)
    other = TracePair(
        *(replace(p, trace=replace(p.trace, answer="z", answer_class=7)) for p in
          (other.first, other.second))
    )  # fmt: skip
    assert (columns([one]) == columns([other])).all()
    longer = pair([1, 2, 2], [1, 3, 3], 30)
    assert (columns([one]) != columns([longer])).any()


def test_pairs_at_once_or_one_by_one_in_either_order():
    pairs = planted(4, seed=1)
    found = columns(pairs)
    assert (found == np.concatenate([columns([p]) for p in pairs])).all()
    assert (found == columns([TracePair(p.second, p.first) for p in pairs])).all()


def test_a_planted_signal_is_learnt_without_text(judge):
    pairs = planted(seed=3)
    found = judge_metrics(judge.score(pairs), labels_of(pairs), questions_of(pairs))
    assert found["auroc_within"] > 0.8
    assert not judge.is_model


def test_traces_without_forced_answers_are_refused_before_anything_is_computed(judge, tmp_path):
    """In train, and in evaluate, which reads the need from the export; text is not asked for."""
    silent, forced = group(["a", "b"]), with_forced_answers(group(["a", "b"]), [[0], [1]], every=2)
    with pytest.raises(InputError, match="judge needs recorded forced answers, which question 'q'"):
        check_judge_needs(judge.needs, [forced, silent])
    needs = chosen_export(judge.export(tmp_path / "judge")).needs
    points = [Point(Consensus(2), 2), Point(DeepPrune(FirstTokens(5)), 2, "it")]
    with pytest.raises(InputError, match="judge it needs recorded forced answers, which these"):
        check_needs(points, silent, {"it": needs})
    mute = replace(forced, traces=tuple(replace(t, text="") for t in forced.traces))
    check_needs(points, mute, {"it": needs})
    with pytest.raises(InputError, match="judge it needs the text of the traces"):
        check_needs(points, mute, {"it": Judge.needs})


def test_forced_answers_are_on_the_generators_bill(judge):
    """Checkpoint at 20 tokens, forced answers every 6: three answers of 5 tokens out of each trace.

    One trace ends after 12 tokens. Its first forced answer is paid; the second lies at its end,
    where its answer is known. So a question costs 5 * (3 + 3 + 1) tokens, 3 * 5 of them one after
    another.
    """
    traces = with_forced_answers(
        group(["a", "b", "a"], [40, 30, 12]), [[0, 0, 0, 0], [0, 1, 1, 1], [0, 0]], every=6
    )
    points = [Point(DeepPrune(FirstTokens(20), threshold=t), 3, "it") for t in (0.2, 0.9)]
    points += [Point(DeepPrune(FirstTokens(20)), 3, "oracle")]
    points += [Point(DeepPrune(FirstTokens(20)), 1, "it")]  # no pair, so no answer is read
    size, ref = GeneratorSize(1e3, 2, 8), QuestionRef(traces.question, traces.model, 3)
    runner = QuestionRunner(
        points, n_traces=3, resamples=2, seed=0, generators={"tiny": size},
        judges={"it": judge, "oracle": OracleJudge()},
        load=lambda _: traces,
        make_engine=lambda *g: ReplayEngine(*g, STEPS, tokens_per_forced_answer=5),
    )  # fmt: skip
    at_once = runner(Task(ref, tokens_prompt=7))
    runner.is_watched = True
    one_by_one = runner(Task(ref, tokens_prompt=7))
    assert not at_once.failures | one_by_one.failures
    for name in FIELDS:
        np.testing.assert_allclose(at_once.fields[name], one_by_one.fields[name], err_msg=name)
    assert at_once.fields["tokens_forced"].tolist() == [[35, 35], [35, 35], [0, 0], [0, 0]]
    unpaid = replace(runner, make_engine=lambda *g: ReplayEngine(*g, STEPS, 0))
    more = {
        name: at_once.fields[name] - unpaid(Task(ref, tokens_prompt=7)).fields[name]
        for name in ("tokens_sequential", "generator_flops")
    }
    assert more["tokens_sequential"].tolist() == [[15, 15], [15, 15], [0, 0], [0, 0]]
    context = 5 * 2 * (6 + 12 + 18) + 5 * 6 + 7 * 15 + 35 * 7  # itself, and the prompt
    paid = size.forced_flops(np.array(35.0), np.array(context))
    np.testing.assert_allclose(more["generator_flops"][:2], paid)


def test_traces_without_text_do_not_share_a_score():
    cache = ScoreCache()
    agree, differ = pair([1, 2], [1, 2]), pair([1, 2], [1, 3])
    agree, differ = (
        TracePair(*(replace(p, trace=replace(p.trace, text="", token_end=[0] * 100)) for p in ends))
        for ends in ((agree.first, agree.second), (differ.first, differ.second))
    )
    cache.put_many("judge", [agree], [0.9])
    assert cache.get_many("judge", [agree]).tolist() == [0.9]
    assert np.isnan(cache.get_many("judge", [differ])).all()
