"""The data module under a real Trainer, with an encoding of words and a model of one weight."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from builders import group
from pytorch_lightning.callbacks import ModelCheckpoint

from deepprune.core.errors import InputError
from deepprune.data.datamodule import JudgeDataModule
from deepprune.data.prefixes import FirstTokens
from deepprune.data.samplers import BalancedSampler
from deepprune.data.splits import Splits
from deepprune.judge.network.encoding import TokenInputs
from deepprune.judge.network.packing import PairTokens

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",  # Lightning's own use of torch
    "ignore:.*callbacks used to create the checkpoint need:UserWarning",
)
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


class Words:
    """One token a word, numbered by its length."""

    def __init__(self):
        self.n_texts = 0

    def encode(self, pairs):
        return TokenInputs(pairs, self)

    def tokenise(self, texts):
        self.n_texts += len(texts)
        return [[len(word) for word in text.split()] for text in texts]

    def join(self, question, first, second):
        return PairTokens([*first, 99, *second], len(first) + 1)

    def length(self, n_question, n_first, n_second):
        return n_first + 1 + n_second

    def is_truncated(self, n_question, n_first, n_second):
        return n_first + n_second > 8

    def collate(self, sequences):
        longest = max(len(s.input_ids) for s in sequences)
        padded = [s.input_ids + [0] * (longest - len(s.input_ids)) for s in sequences]
        return {"input_ids": torch.tensor(padded)}


class Recorder(pl.LightningModule):
    """Remembers the pairs of each batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["meta"]["pair"].tolist())
        return self.weight.sum() * batch["labels"].mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 18  # makes the loader, before it resumes
        return torch.optim.SGD(self.parameters(), 0.1)


def data(**settings):
    groups = [group(["a", "a", "b", "b", "a"], [9, 9, 9, 9, 4], name=f"q{i}") for i in range(6)]
    splits = Splits(tuple(groups[:4]), tuple(groups[4:5]), tuple(groups[5:]))
    return JudgeDataModule(splits, FirstTokens(5), Words().encode, **{"batch_size": 4, **settings})


def test_training_sees_unfinished_pairs_and_evaluation_all():
    module = data()
    assert len(module.pairs("train")) == 4 * 6
    assert all(pair.is_unfinished for pair in module.pairs("train"))
    assert len(module.pairs("val")) == 10
    assert module.encoded("val").is_unfinished.sum() == 6
    assert len(data(only_unfinished=False).pairs("train")) == 40
    assert len(data(pairs_per_question=2).pairs("train")) == 8


def test_batches_say_what_metrics_need():
    module = data()
    encoded = module.encoded("train")
    batch = encoded.batch([0, 23])
    assert batch["labels"].tolist() == [p.label for p in (encoded.pairs[0], encoded.pairs[23])]
    assert batch["labels"].dtype == torch.float32
    assert batch["meta"]["group"].tolist() == [0, 3]
    assert batch["inputs"]["input_ids"].shape == (2, encoded.inputs.lengths[[0, 23]].max())
    assert encoded.inputs.lengths.tolist() == [11] * 24


def test_each_prefix_is_tokenised_once():
    words = Words()
    groups = [group(["a", "b", "a"], name=f"q{i}") for i in range(3)]
    splits = Splits(*((g,) for g in groups))
    JudgeDataModule(splits, FirstTokens(5), words.encode).encoded("train")
    assert words.n_texts == 1 + 3  # the question and three prefixes, in three pairs


def test_validation_covers_every_pair_once():
    loader = data(batch_size=3).val_dataloader()
    seen = np.concatenate([batch["meta"]["pair"].numpy() for batch in loader])
    assert sorted(seen.tolist()) == list(range(10))


def test_the_sampler_is_a_factory():
    labels = torch.cat([b["labels"] for b in data(sampler=BalancedSampler).train_dataloader()])
    assert labels.mean() == 0.5


def test_a_split_without_validation_trains():
    module = data()
    module.splits = Splits(module.splits.train, (), module.splits.test)
    trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, limit_val_batches=0, **QUIET)
    trainer.fit(Recorder(), module)


@pytest.mark.parametrize("done", [4, 6, 9])
def test_a_resumed_run_sees_exactly_the_batches_that_were_left(done, tmp_path):
    """Six batches an epoch, three epochs; resumed within, at the end of, and after the first."""
    whole = Recorder()
    checkpoints = ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, monitor=None
    )
    pl.Trainer(max_epochs=3, callbacks=[checkpoints], **QUIET).fit(whole, data())
    assert len(whole.seen) == 18
    assert len({str(sorted(map(sorted, whole.seen[i : i + 6]))) for i in (0, 6, 12)}) == 3

    resumed = Recorder()
    trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET)
    trainer.fit(resumed, data(), ckpt_path=tmp_path / f"step={done}.ckpt", weights_only=True)
    assert resumed.seen == whole.seen[done:]


def test_no_pairs_and_one_class_are_errors():
    module = data()
    module.rule = FirstTokens(50)
    with pytest.raises(InputError, match="shorter prefix"):
        module.setup("fit")
    module = data()
    one_class = (group(["a", "a"], name="x"),)
    module.splits = Splits(one_class, module.splits.val, module.splits.test)
    with pytest.raises(InputError, match="both classes"):
        module.setup("fit")


def test_overlapping_parts_are_refused():
    one = group(["a", "b"])
    with pytest.raises(InputError, match="one part only"):
        JudgeDataModule(Splits((one,), (), (one,)), FirstTokens(5), Words().encode)
