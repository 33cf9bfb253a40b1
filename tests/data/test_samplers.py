from collections import Counter

import numpy as np
import pytest

from deepprune.data.samplers import (
    BalancedSampler,
    BucketBatchSampler,
    NaturalSampler,
    OrderedSampler,
    OversampleSampler,
)

LABELS = np.array([1] * 30 + [0] * 10)  # "different" is the minority, indices 30 to 39
ALL = [NaturalSampler, OversampleSampler, BalancedSampler, OrderedSampler]


def drawn(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return Counter(sampler)


def test_natural_draws_every_pair_once():
    assert drawn(NaturalSampler(LABELS)) == Counter(range(40))


@pytest.mark.parametrize(("ratio", "extra"), [(1.0, 0), (2.0, 10), (2.5, 15), (3.0, 20)])
def test_oversampling_repeats_the_minority(ratio, extra):
    """30 + 10 ratio pairs; at 2.5 five of the ten stand there three times."""
    sampler = OversampleSampler(LABELS, ratio=ratio)
    counts = drawn(sampler)
    assert len(sampler) == counts.total() == 40 + extra
    assert all(counts[i] == 1 for i in range(30))
    minority = [counts[i] for i in range(30, 40)]
    assert sum(minority) == 10 + extra
    assert max(minority) - min(minority) <= 1


def test_the_minority_may_be_the_other_class():
    counts = drawn(OversampleSampler(1 - LABELS, ratio=2))
    assert [counts[i] for i in (0, 39)] == [1, 2]


def test_balanced_draws_both_classes_alike_and_all_of_the_majority_in_time():
    sampler = BalancedSampler(LABELS)
    counts = [drawn(sampler, epoch) for epoch in range(12)]
    for count in counts:
        assert sum(count[i] for i in range(30)) == 20
        assert {count[i] for i in range(30, 40)} == {2}
    assert len(sum(counts, Counter())) == 40
    with pytest.raises(ValueError, match="both classes"):
        list(BalancedSampler([1, 1, 1]))


@pytest.mark.parametrize("make", ALL)
def test_an_epoch_has_the_stated_length(make):
    assert drawn(make(LABELS, epoch_length=24)).total() == 24
    assert drawn(make(LABELS, epoch_length=100)).total() == 100


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("length", [None, 33])
def test_ranks_share_an_epoch(make, length):
    """Two ranks yield equally many, together the epoch of one; a repeated index fills it up."""
    whole = make(LABELS, 5, epoch_length=length)
    ranks = [make(LABELS, 5, epoch_length=length, num_replicas=2, rank=r) for r in (0, 1)]
    for epoch in (0, 1):
        for sampler in (whole, *ranks):
            sampler.set_epoch(epoch)
        first, second = map(list, ranks)
        assert len(first) == len(second) == len(ranks[0])
        together = [i for both in zip(first, second, strict=True) for i in both]
        assert together[: len(whole)] == list(whole)
        assert together[len(whole) :] == list(whole)[: len(together) - len(whole)]


@pytest.mark.parametrize("make", ALL[:3])
def test_seed_and_epoch_decide_the_order(make):
    assert list(make(LABELS, 1)) == list(make(LABELS, 1))
    assert list(make(LABELS, 1)) != list(make(LABELS, 2))
    sampler = make(LABELS, 1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OversampleSampler(LABELS, ratio=0.5), "got 0.5"),
        (lambda: NaturalSampler([]), "got none"),
        (lambda: NaturalSampler([0, 2]), r"got \[0, 2\]"),
        (lambda: NaturalSampler([0, 1], rank=2, num_replicas=2), "got 2"),
        (lambda: NaturalSampler([0, 1], epoch_length=0), "got 0"),
        (lambda: BucketBatchSampler(NaturalSampler([0, 1]), [1, 1], 0), "batch_size"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def batches(seed=0, bucket_batches=4):
    lengths = np.random.default_rng(0).integers(5, 100, len(LABELS))
    return BucketBatchSampler(
        NaturalSampler(LABELS, seed), lengths, 4, bucket_batches=bucket_batches
    ), lengths


def test_buckets_hold_every_pair_and_less_padding():
    def padding(sampler, lengths):
        return sum(lengths[b].max() * len(b) - lengths[b].sum() for b in sampler)

    sampler, lengths = batches()
    plain, _ = batches(bucket_batches=1)
    assert len(list(sampler)) == len(sampler) == 10
    assert sorted(i for batch in sampler for i in batch) == list(range(40))
    assert padding(sampler, lengths) < padding(plain, lengths) / 2


@pytest.mark.parametrize("done", [0, 1, 6, 10])
@pytest.mark.parametrize("epoch", [0, 2])
def test_batches_resume_in_mid_epoch(done, epoch):
    whole, _ = batches()
    whole.set_epoch(epoch)
    expected = list(whole)

    interrupted, _ = batches()
    interrupted.set_epoch(epoch)
    iterator = iter(interrupted)
    seen = [next(iterator) for _ in range(done)]
    state = dict(interrupted.state_dict()) if done else {"epoch": epoch, "batches_yielded": 0}

    resumed, _ = batches()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert seen + list(resumed) == expected
    resumed.set_epoch(epoch + 1)
    whole.set_epoch(epoch + 1)
    assert list(resumed) == list(whole)
