import functools
from collections import Counter

import numpy as np
import pytest

from deepprune.data.samplers import (
    BalancedSampler,
    BucketBatchSampler,
    NaturalSampler,
    OrderedSampler,
    OversampleSampler,
    QuestionBalancedSampler,
)

LABELS = np.array([1] * 30 + [0] * 10)  # "different" is the minority, indices 30 to 39
GROUPS = np.arange(40) % 4  # questions 2 and 3 have two "different" pairs, 0 and 1 have three
ALL = [
    NaturalSampler,
    OversampleSampler,
    BalancedSampler,
    functools.partial(QuestionBalancedSampler, block=1),
    OrderedSampler,
]


def drawn(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return Counter(sampler)


def test_natural_draws_every_pair_once():
    assert drawn(NaturalSampler(LABELS, GROUPS)) == Counter(range(40))


@pytest.mark.parametrize(("ratio", "extra"), [(1.0, 0), (2.0, 10), (2.5, 15), (3.0, 20)])
def test_oversampling_repeats_the_minority(ratio, extra):
    """30 + 10 ratio pairs; at 2.5 five of the ten stand there three times."""
    sampler = OversampleSampler(LABELS, GROUPS, ratio=ratio)
    counts = drawn(sampler)
    assert len(sampler) == counts.total() == 40 + extra
    assert all(counts[i] == 1 for i in range(30))
    minority = [counts[i] for i in range(30, 40)]
    assert sum(minority) == 10 + extra
    assert max(minority) - min(minority) <= 1


def test_the_minority_may_be_the_other_class():
    counts = drawn(OversampleSampler(1 - LABELS, GROUPS, ratio=2))
    assert [counts[i] for i in (0, 39)] == [1, 2]


def test_balanced_draws_both_classes_alike_and_all_of_the_majority_in_time():
    sampler = BalancedSampler(LABELS, GROUPS)
    counts = [drawn(sampler, epoch) for epoch in range(12)]
    for count in counts:
        assert sum(count[i] for i in range(30)) == 20
        assert {count[i] for i in range(30, 40)} == {2}
    assert len(sum(counts, Counter())) == 40
    with pytest.raises(ValueError, match="both classes"):
        list(BalancedSampler([1, 1, 1], [0, 0, 0]))


def test_question_balanced_draws_questions_and_their_classes_alike():
    """14 "same" and two "different" of question 0, two and two of 1, one class in 2: 4 of each
    class of 0 and 1, and 8 of 2, whatever their sizes."""
    labels = [*[1] * 14, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    groups = [*[0] * 16, *[1] * 4, *[2] * 4]
    for block in (1, 2, 4, 8):
        sampler = QuestionBalancedSampler(labels, groups, block=block)
        for epoch in (0, 1):
            counts = drawn(sampler, epoch)
            cells = Counter()
            for pair, n in counts.items():
                cells[groups[pair], labels[pair]] += n
            assert cells == {(0, 0): 4, (0, 1): 4, (1, 0): 4, (1, 1): 4, (2, 1): 8}
            assert {counts[i] for i in range(14, 24)} == {2}  # no pair twice before all once
            assert max(counts[i] for i in range(14)) == 1
    assert len(QuestionBalancedSampler(LABELS, GROUPS, block=16)) == 48  # 40 pairs in whole blocks


def test_a_block_has_one_question_and_both_classes():
    sampler = QuestionBalancedSampler(LABELS, GROUPS, block=4)
    for block in np.array(list(sampler)).reshape(-1, 4):
        assert len(set(GROUPS[block])) == 1
        assert LABELS[block].sum() == 2


HEADS = GROUPS * 3 + np.arange(40) // 4 % 3  # three of each question: four, three and three pairs


@pytest.mark.parametrize(
    "make",
    [
        NaturalSampler,
        functools.partial(OversampleSampler, ratio=3),
        BalancedSampler,
    ],
)
def test_pairs_of_a_representative_stand_together_and_classes_stay_as_they_are(make):
    plain, grouped = make(LABELS, GROUPS), make(LABELS, GROUPS)
    grouped.keep_together(HEADS, 4)
    for epoch in (0, 1):
        counts, together = drawn(plain, epoch), drawn(grouped, epoch)
        assert _cells(together) == _cells(counts)
        heads = HEADS[np.array(list(grouped)).reshape(-1, 4)]
        whole = sum(n // 4 for n in Counter(heads.ravel().tolist()).values())
        assert sum(len(set(block)) == 1 for block in heads.tolist()) >= whole


def _cells(counts):
    """Draws of each class."""
    cells = Counter()
    for pair, n in counts.items():
        cells[LABELS[pair]] += n
    return cells


def test_copies_of_a_pair_are_spread_over_the_blocks_of_its_representative():
    labels = np.array([0] * 4 + [1] * 8)
    sampler = OversampleSampler(labels, np.zeros(12, dtype=int), ratio=2)
    sampler.keep_together(np.zeros(12, dtype=int), 8)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        blocks = np.array(list(sampler)).reshape(2, 8)
        assert max(len(set(block)) for block in blocks.tolist()) == 8


def blocks(seed=0, *, batch_size=8, **rank):
    lengths = np.random.default_rng(0).integers(5, 100, len(LABELS))
    sampler = QuestionBalancedSampler(LABELS, GROUPS, seed, block=4, **rank)
    return BucketBatchSampler(sampler, lengths, batch_size, bucket_batches=3)


@pytest.mark.parametrize("epoch", [0, 1])
def test_ranks_share_blocks_and_batches_keep_them_whole(epoch):
    """Ten blocks of 40 pairs on three ranks: four each, the first two a second time."""
    ranks = [blocks(num_replicas=3, rank=rank) for rank in range(3)]
    seen = Counter()
    for batches_of_rank in ranks:
        batches_of_rank.set_epoch(epoch)
        drawn_batches = list(batches_of_rank)
        assert len(drawn_batches) == len(batches_of_rank) == 2
        for batch in drawn_batches:
            for block in np.array(batch).reshape(-1, 4):
                assert len(set(GROUPS[block])) == 1
                assert LABELS[block].sum() == 2
                seen[tuple(block)] += 1
    whole = blocks()
    whole.set_epoch(epoch)
    expected = whole.sampler.epoch_indices().reshape(-1, 4)
    assert seen == Counter(map(tuple, np.concatenate((expected, expected[:2])).tolist()))


@pytest.mark.parametrize("rank", [0, 1])
def test_blocks_resume_in_mid_epoch(rank):
    whole = blocks(num_replicas=2, rank=rank)
    whole.set_epoch(3)
    expected = list(whole)
    interrupted, resumed = (blocks(num_replicas=2, rank=rank) for _ in range(2))
    interrupted.set_epoch(3)
    first = next(iter(interrupted))
    resumed.load_state_dict(interrupted.state_dict())
    assert [first, *resumed] == expected


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("length", [40, 33])
def test_ranks_share_an_epoch(make, length):
    """Two ranks yield equally many, together the epoch of one; a repeated index fills it up."""
    pairs = LABELS[:length], GROUPS[:length]
    whole = make(*pairs, 5)
    ranks = [make(*pairs, 5, num_replicas=2, rank=r) for r in (0, 1)]
    for epoch in (0, 1):
        for sampler in (whole, *ranks):
            sampler.set_epoch(epoch)
        first, second = map(list, ranks)
        assert len(first) == len(second) == len(ranks[0])
        together = [i for both in zip(first, second, strict=True) for i in both]
        assert together[: len(whole)] == list(whole)
        assert together[len(whole) :] == list(whole)[: len(together) - len(whole)]


@pytest.mark.parametrize("make", ALL[:4])
def test_seed_and_epoch_decide_the_order(make):
    assert list(make(LABELS, GROUPS, 1)) == list(make(LABELS, GROUPS, 1))
    assert list(make(LABELS, GROUPS, 1)) != list(make(LABELS, GROUPS, 2))
    sampler = make(LABELS, GROUPS, 1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OversampleSampler(LABELS, GROUPS, ratio=0.5), "got 0.5"),
        (lambda: NaturalSampler([], []), "got none"),
        (lambda: NaturalSampler([0, 2], [0, 0]), r"got \[0, 2\]"),
        (lambda: NaturalSampler([0, 1], [0, 0], rank=2, num_replicas=2), "got 2"),
        (lambda: BucketBatchSampler(NaturalSampler([0, 1], [0, 0]), [1, 1], 0), "batch_size"),
        (lambda: NaturalSampler([0, 1], [0]), r"\(2,\) and \(1,\)"),
        (lambda: QuestionBalancedSampler([0, 1], [0, 0], block=0), "got 0"),
        (lambda: blocks(batch_size=6), "got 6 and 4"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def batches(seed=0, bucket_batches=4):
    lengths = np.random.default_rng(0).integers(5, 100, len(LABELS))
    return BucketBatchSampler(
        NaturalSampler(LABELS, GROUPS, seed), lengths, 4, bucket_batches=bucket_batches
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
