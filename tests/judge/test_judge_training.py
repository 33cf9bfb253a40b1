"""A random Qwen3 of two layers through fit, checkpoint, resume, validation and export."""

import functools
import math
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from builders import group
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_models import save_tiny_qwen3

from deepprune.callbacks.export_judge import ExportJudge
from deepprune.callbacks.resume_point import ResumePoint
from deepprune.core.errors import InputError
from deepprune.data.datamodule import JudgeDataModule
from deepprune.data.pairs import labels_of, questions_of
from deepprune.data.prefixes import FirstTokens
from deepprune.data.samplers import OversampleSampler, QuestionBalancedSampler
from deepprune.data.splits import Splits
from deepprune.judge.calibration import fit_calibration
from deepprune.judge.measure.metrics import judge_metrics
from deepprune.judge.measure.scored_pairs import PairScores
from deepprune.judge.network.backbones import Backbone, Lora, load_model, load_tokenizer
from deepprune.judge.network.cross_encoder import CrossEncoderArchitecture, CrossEncoderJudge
from deepprune.judge.network.encoding import PairEncoder
from deepprune.judge.network.losses import FocalLoss, RankingLoss
from deepprune.judge.network.module import JudgeModule
from deepprune.judge.saved import read_record

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",  # Lightning's own use of torch
    "ignore:.*callbacks used to create the checkpoint need:UserWarning",
    "ignore:Checkpoint directory .* is not empty:UserWarning",
)
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny_qwen3(tmp_path_factory.mktemp("tiny") / "qwen3")


def backbone(source, lora=True):
    return Backbone(source=source, pooling="last", lora=Lora(r=2, dropout=0.2) if lora else None)


def data(source, sampler=None, **settings):
    groups = [group(["a", "a", "b", "b", "a"], [9, 9, 9, 9, 4], name=f"q{i}") for i in range(4)]
    encoder = PairEncoder(load_tokenizer(backbone(source)), layout="causal", max_length=256)
    return JudgeDataModule(
        Splits(tuple(groups[:2]), tuple(groups[2:3]), tuple(groups[3:])),
        FirstTokens(5),
        encoder.encode,
        sampler or functools.partial(OversampleSampler, ratio=2),
        **{"batch_size": 5, "seed": 3, **settings},
    )


def module(source, *, lora=True, schedule="linear", loss=None):
    torch.manual_seed(1)
    return JudgeModule(
        load_model(backbone(source, lora)),
        loss or FocalLoss(),
        functools.partial(torch.optim.AdamW, lr=1e-2),
        schedule,
        seed=7,
    )


def trained(module):
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("group", [1, 5])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(group, source, tmp_path):
    """Four batches an epoch with LoRA dropout; resumed in the middle of the second epoch."""
    whole = module(source)
    before = {name: p.clone() for name, p in trained(whole).items()}
    checkpoints = ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, monitor=None
    )
    trainer = pl.Trainer(max_epochs=3, callbacks=[checkpoints], **QUIET)
    trainer.fit(whole, data(source, group=group))
    assert trainer.global_step == 12
    assert all((p != before[name]).any() for name, p in trained(whole).items())

    path = tmp_path / "step=6.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert set(saved) == set(trained(whole))  # nothing frozen

    resumed = module(source)
    trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET)
    torch.manual_seed(99)
    trainer.fit(resumed, data(source, group=group), ckpt_path=path, weights_only=True)
    assert trainer.global_step == 12
    for name, p in trained(whole).items():
        assert torch.equal(p, trained(resumed)[name]), name


class Copies(ResumePoint):
    """Keeps every resume point."""

    def _save(self, trainer):
        super()._save(trainer)
        last = trainer.default_root_dir + "/checkpoints/last.ckpt"
        shutil.copy(last, f"{trainer.default_root_dir}/{trainer.global_step}.ckpt")


def test_from_any_resume_point_the_same_checkpoint_is_best(source, tmp_path):
    """Four batches an epoch: points at 1, 2, 3, 5, ... and, after validation, at 4, 8 and 12."""

    def fit(folder, *callbacks, **resume):
        best = ModelCheckpoint(folder, monitor="judge/val_loss", save_weights_only=True)
        trainer = pl.Trainer(
            max_epochs=3, callbacks=[best, *callbacks], default_root_dir=folder, **QUIET
        )
        trainer.fit(module(source), data(source), **resume)
        return best.best_model_score.item(), trainer.global_step

    whole = fit(tmp_path, Copies(every_n_train_steps=1))
    points = sorted(int(p.stem) for p in tmp_path.glob("[0-9]*.ckpt"))
    assert points == list(range(1, 13))
    for point in (3, 4, 8, 12):
        path = tmp_path / f"{point}.ckpt"
        assert fit(tmp_path, ckpt_path=path, weights_only=True) == whole, point


def test_no_resume_point_is_within_an_accumulated_step(source, tmp_path):
    """Four batches an epoch, two to a step, and a validation follows each step."""

    class Places(ResumePoint):
        def _save(self, trainer):
            super()._save(trainer)
            saved.append((trainer.global_step, trainer.fit_loop.batch_idx))

    saved = []
    trainer = pl.Trainer(
        max_epochs=1, accumulate_grad_batches=2, val_check_interval=2,
        callbacks=[Places(every_n_train_steps=1)], default_root_dir=tmp_path, **QUIET,
    )  # fmt: skip
    trainer.fit(module(source), data(source))
    assert saved == [(2, 3)]  # at the end of the epoch


def test_a_checkpoint_of_another_model_is_refused(source, tmp_path):
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, limit_val_batches=0, **QUIET)
    trainer.fit(module(source), data(source))
    trainer.save_checkpoint(tmp_path / "lora.ckpt")
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="same model and adapters"):
        trainer.fit(
            module(source, lora=False),
            data(source),
            ckpt_path=tmp_path / "lora.ckpt",
            weights_only=True,
        )


def test_validation_logs_pooled_and_within_question_metrics(source):
    judge, pairs = module(source), data(source, batch_size=3)
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(judge, pairs)
    logged = trainer.callback_metrics
    batches = list(pairs.val_dataloader())
    with torch.no_grad():
        logits = torch.cat([judge.eval()(**batch["inputs"]) for batch in batches])
    places = torch.cat([batch["meta"]["pair"] for batch in batches]).tolist()
    assert sorted(places) == list(range(10))
    scores = torch.sigmoid(logits).double().numpy()
    chosen = [pairs.pairs("val")[place] for place in places]
    rows = [i for i, pair in enumerate(chosen) if pair.is_unfinished]
    assert len(rows) == 6
    labels, questions = labels_of(chosen)[rows], np.zeros(6)
    expected = judge_metrics(scores[rows], labels, questions)
    for name, value in expected.items():
        assert logged[f"judge/val_{name}_unfinished"].item() == pytest.approx(value, abs=1e-6)
    assert {"judge/train_loss", "judge/val_loss", "judge/val_auroc_within"} <= set(logged)


def test_a_judge_that_has_diverged_is_refused(source):
    class Diverged(torch.nn.Module):
        def forward(self, packing, **_):
            return torch.full((len(packing.head_B),), float("nan"))

    module = JudgeModule(Diverged(), FocalLoss(), torch.optim.SGD)
    with pytest.raises(InputError, match="Diverged gives NaN for 10 of 10 validation pairs"):
        pl.Trainer(**QUIET).validate(module, data(source), verbose=False)


def test_an_undefined_checkpoint_metric_is_said_and_harmless(source, tmp_path, caplog):
    pairs = data(source)
    one_class = group(["a", "a", "a"], name="x")
    pairs.splits = Splits(pairs.splits.train, (one_class,), pairs.splits.test)
    best = ModelCheckpoint(tmp_path, monitor="judge/val_auroc_within_unfinished", mode="max")
    trainer = pl.Trainer(max_epochs=2, callbacks=[best], **QUIET)
    trainer.fit(module(source), pairs)
    assert math.isnan(trainer.callback_metrics["judge/val_auroc_within_unfinished"])
    assert "auroc_within_unfinished is undefined" in caplog.text
    assert best.best_model_path


def test_a_ranking_loss_finds_what_it_compares(source):
    """Blocks of four pairs of one question: every batch has both classes of each question in it."""

    class Watched(RankingLoss):
        comparable = []  # noqa: RUF012

        def forward(self, logits, labels, groups):
            if logits.requires_grad:
                questions = set(groups.tolist())
                self.comparable += [len(set(labels[groups == q].tolist())) for q in questions]
            return super().forward(logits, labels, groups)

    blocks = functools.partial(QuestionBalancedSampler, block=4)
    judge, pairs = module(source, loss=Watched(0.1)), data(source, sampler=blocks, batch_size=8)
    before = {name: p.clone() for name, p in trained(judge).items()}
    trainer = pl.Trainer(max_epochs=2, enable_checkpointing=False, **QUIET)
    trainer.fit(judge, pairs)
    assert set(Watched.comparable) == {2}
    assert all((p != before[name]).any() for name, p in trained(judge).items())
    assert math.isfinite(trainer.callback_metrics["judge/val_loss"])


def test_the_model_may_be_built_under_the_strategy(source):
    judge = JudgeModule(lambda: load_model(backbone(source)), FocalLoss(), torch.optim.SGD, seed=0)
    assert judge.model is None
    pl.Trainer(max_steps=1, enable_checkpointing=False, **QUIET).fit(judge, data(source))
    assert judge.model is not None


def test_an_export_is_calibrated_on_the_logits_of_the_best_validation(
    source, tmp_path, monkeypatch
):
    """A judge that averages both orders of a pair has to read them again."""
    scored = []
    logits = CrossEncoderJudge.logits

    def counted(judge, pairs):
        scored.append(len(pairs))
        return logits(judge, pairs)

    monkeypatch.setattr(CrossEncoderJudge, "logits", counted)
    pairs = data(source)
    exporters = []
    for name, symmetric in (("judge", False), ("both", True)):
        architecture = CrossEncoderArchitecture(backbone(source), {"max_length": 256}, symmetric)
        exporters.append(ExportJudge(tmp_path / name, architecture, pairs))
    best = ModelCheckpoint(tmp_path, monitor="judge/val_loss", mode="max")  # the first epoch's
    trainer = pl.Trainer(max_epochs=2, callbacks=[*exporters, best], **QUIET)
    trainer.fit(module(source), pairs)
    some = pairs.pairs("val")
    assert scored == [len(some)]

    judge = CrossEncoderJudge.load(tmp_path / "judge")
    found = fit_calibration(judge.logits(some), labels_of(some), questions_of(some))
    assert judge.calibration.scale == pytest.approx(found.scale, rel=1e-3)
    auroc = read_record(tmp_path / "judge").training["auroc_within_unfinished"]
    assert auroc == PairScores.of(some, judge.score(some)).metric("auroc_within_unfinished")
