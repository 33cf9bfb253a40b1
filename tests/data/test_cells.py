"""Which traces are paired: of one model where it has several a question, else across models."""

import pytest
from builders import group

from deepprune.core.errors import InputError
from deepprune.core.types import QuestionRef, QuestionTraces
from deepprune.data.cells import CROSS_MODEL, cells
from deepprune.data.pairs import build_pairs, same_share
from deepprune.data.prefixes import FirstTokens


def several_models(answers, name="q"):
    """One trace a model, in the order of the answers; classes are the question's."""
    whole = group(answers, name=name)
    return [
        QuestionTraces(whole.question, f"m{i}", (trace,)) for i, trace in enumerate(whole.traces)
    ]


def refs(groups):
    return [QuestionRef(g.question, g.model, len(g.traces)) for g in groups]


def loader(groups):
    found = {(g.question, g.model): g for g in groups}
    return lambda ref: found[ref.question, ref.model]


def test_auto_pairs_across_models_where_none_has_three_traces():
    groups = [*several_models("aab"), *several_models("ab", "r")]
    (cell,) = cells(refs(groups))
    assert (cell.dataset, cell.model, len(cell.questions)) == ("toy", CROSS_MODEL, 2)
    pairs = [[p.label for p in build_pairs(g, FirstTokens(5))] for g in cell.groups(loader(groups))]
    assert pairs == [[1, 0, 0], [0]]
    with pytest.raises(InputError, match="pairs=within_model needs a question with two traces"):
        cells(refs(groups), "within_model")


def test_auto_stays_within_models_where_one_has_three_traces():
    whole = group("aaba")
    extra = QuestionTraces(whole.question, "other", whole.traces[:2])
    found = cells(refs([whole, extra]))
    assert [(c.model, len(c.questions)) for c in found] == [("tiny", 1)]
    assert {c.model for c in cells(refs([whole, extra]), "within_model")} == {"tiny", "other"}
    assert [c.model for c in cells(refs([whole, extra]), "cross_model")] == [CROSS_MODEL]


def test_auto_pairs_across_models_where_most_have_one_trace():
    """One model with three traces beside many with one is not what a data set is about."""
    whole = group("aab")
    single = [
        QuestionTraces(whole.question, f"m{i}", (trace,)) for i, trace in enumerate(whole.traces)
    ]
    assert [c.model for c in cells(refs([whole, *single]))] == [CROSS_MODEL]


def test_a_pairing_that_is_unknown_is_refused():
    with pytest.raises(InputError, match="one of auto, within_model, cross_model, got 'all'"):
        cells([], "all")


def test_the_same_share_is_that_of_the_pairs():
    """aab: 1 of 3; aaaa: 6 of 6; one without an answer has no pair. Of 2 drawn each: 1/3 and 1."""
    groups = [group(["a", "a", "b", None]), group("aaaa", name="r")]
    labels = [p.label for g in groups for p in build_pairs(g, FirstTokens(5))]
    assert same_share(groups) == sum(labels) / len(labels) == 7 / 9
    assert same_share(groups, 2) == pytest.approx((1 / 3 + 1) / 2)
