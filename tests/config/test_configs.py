"""Every shipped config is composed, and every constructor call in it fits its signature."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import group
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import OmegaConf

from deepprune import cli
from deepprune.cli import config_folder
from deepprune.config import build
from deepprune.config.advice import advise
from deepprune.config.help import help_text
from deepprune.config.schemas import check_ranges
from deepprune.core.errors import InputError
from deepprune.core.step_times import StepTimes

CONF = config_folder()
SWEEPING = ("train", "evaluate")
APPLICATIONS = (*SWEEPING, "collect", "prune")
MULTIPLE = {"pruning", "callbacks", "beside"}
CHOICES = [
    (application, f"{group.name}={f'[{p.stem}]' if group.name in MULTIPLE else p.stem}")
    for application in APPLICATIONS
    for group in sorted(p for p in CONF.iterdir() if p.is_dir())
    for p in sorted(group.glob("*.yaml"))
    if f"- {group.name}:" in (CONF / f"{application}.yaml").read_text()
    if application == "train" or group.name != "experiment"
    if (application, p.stem) != ("prune", "all")  # a live run has one policy
]


def composed(application, *overrides):
    return cli.composed(application, overrides)


def checked(application, *overrides):
    config = composed(application, *overrides)
    check_ranges(config)
    return config


def calls(node):
    """All nodes with a `_target_`, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from calls(value)


@pytest.mark.parametrize(("application", "choice"), CHOICES)
def test_composes_and_binds(application, choice):
    config = composed(application, choice)
    for missing in OmegaConf.missing_keys(config):  # what the user must give
        OmegaConf.update(config, missing, "given")
    found = list(calls(OmegaConf.to_container(config, resolve=True)))
    assert found
    for node in found:
        target = get_object(node["_target_"])
        arguments = {k: v for k, v in node.items() if not k.startswith("_")}
        if node["_target_"].endswith("Architecture"):
            arguments = {k: v for k, v in arguments.items() if k not in build.TRAINED_WITH}
        signature = inspect.signature(target)
        if node.get("_partial_") or "callbacks" in node["_target_"]:
            signature.bind_partial(**arguments)
        else:
            signature.bind(**arguments)


POLICIES = {p.stem for p in (CONF / "pruning").glob("*.yaml")} - {"demo"}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_made_and_swept(name):
    """Alone, as the sweep's commands make it: points that have names of their own."""
    sweep = build.evaluate(composed("evaluate", f"pruning=[{name}]")).sweep
    chosen = sweep.points(8, ["a", "b"])
    assert {p.judge for p in chosen} <= {None, "a", "b"}
    assert len({p.key for p in chosen}) == len(chosen)
    names = {p.policy.name for p in chosen}
    if name == "all":
        assert sweep.skip_unmet
        assert set(sweep.policies) == POLICIES - {name}
        assert names == set(sweep.policies)
    else:
        assert not sweep.skip_unmet
        assert list(sweep.policies) == [name]
        assert names == {"consensus", name}


@pytest.mark.parametrize("application", SWEEPING)
def test_the_parts_of_a_sweep_are_made(application):
    """Defaults, and an axis of a policy's field as a user writes it."""
    config = composed(application, "+sweep.axes.deepprune.clustering=[greedy,average]")
    sweep = getattr(build, application)(config).sweep
    assert sweep.make_engine(group(["a"])).tokens_per_forced_answer == 20
    assert sweep.distributed.n is None
    assert sweep.watchers
    chosen = sweep.points(8, ["a"])
    assert {"greedy", "average"} == {p.axes.get("clustering", "greedy") for p in chosen}
    looks = "+callbacks.sweep.drop._target_=deepprune.callbacks.drop_dominated.DropDominated"
    sweep = getattr(build, application)(composed(application, looks, "distributed.n=3")).sweep
    assert sweep.watchers[-1].look_every == 20
    assert sweep.distributed.n == 3


def test_step_times_are_a_preset_or_a_file(tmp_path):
    """Their numbers are an input of the run: it does not go on with a file that has changed."""
    file = tmp_path / "mine.yaml"
    for weights in (0.5, 0.25):
        file.write_text(f"weights_s: {weights}\ncompute_s: 0\nkv_s: 1e-9\nflops_per_s: 1e12\n")
        sweep = build.evaluate(composed("evaluate", f"engine.steps={file}")).sweep
        assert StepTimes(weights, 0, 1e-9, 1e12, str(file)) == sweep.make_engine(group(["a"])).steps
        assert f"weights_s={weights}" in sweep.inputs["engine.steps"]
    file.write_text("weights_s: 0\ncompute_s: 0\nkv_s: 0\nflops_per_s: 1")
    for name, said in ((file, "weights_s must be > 0, got 0"), ("h200", "No such file")):
        with pytest.raises(InputError, match=f"one of h100_qwen3_8b, h100_qwen3_32b, .*{said}"):
            build.evaluate(composed("evaluate", f"engine.steps={name}"))


def test_a_callback_that_is_null_is_switched_off(tmp_path):
    config = composed("train", "callbacks.training.progress=null", "callbacks.sweep.figure=null")
    plan = build.train(config)
    assert plan.make_trainer(tmp_path, [], []).progress_bar_callback is None
    assert len(plan.sweep.watchers) == 1


def test_every_file_is_reachable():
    """No shipped YAML is left that no application composes."""
    composed_files = {c.split("=")[0] + "/" + c.split("=")[1].strip("[]") for _, c in CHOICES}
    shipped = {str(p.relative_to(CONF).with_suffix("")) for p in CONF.glob("*/*.yaml")}
    shipped -= {f"wandb/{p.stem}" for p in (CONF / "wandb").iterdir()}  # see test_tracking.py
    assert shipped == composed_files


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.threshold=[0.5]", "did you mean sweep.thresholds?"),
        ("los=bce", "did you mean loss?"),
        ("engine.tokens_per_probe=5", "renamed: use engine.tokens_per_forced_answer."),
        ("loss.gama=3", "did you mean loss.gamma?"),
        (
            "pruning=[oracle_prune]",
            "is pruning=deepprune with sweep.judges=[oracle]",
        ),
        ("pruning=[adaptive_budget]", "use pruning=race."),
        ("loss=focl", "did you mean focal? Those that exist: bce, focal, ranking, weighted_bce."),
        ("loss.gamma=high", "loss.gamma: Value 'high' of type 'str' could not be converted"),
    ],
)
def test_a_wrong_override_is_named_with_the_way_out(override, said):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever Hydra raises, we explain it
        composed("train", override)
    assert said in advise(caught.value, "train", CONF)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.thresholds=[]", "sweep.thresholds is empty"),
        ("sweep.prefix_lens=[0]", "k must be >= 1, got 0"),
        ("sweep.prefix_lens=[1.5]", "whole numbers, got 1.5"),
    ],
)
def test_a_wrong_axis_is_refused_before_anything_loads(override, said):
    with pytest.raises(InputError, match=said):
        build.evaluate(checked("evaluate", override))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.ns=[9]", r"between 2 and the 8 traces a question, got \[9\]"),
        ("+sweep.axes.deeprune.vote=[size]", "axes.deeprune is no policy of this sweep"),
        ("+sweep.axes.deepprune.votes=[size]", "deepprune.votes is no field of deepprune"),
        ("+sweep.axes.deepprune.vote=[many]", "vote must be one of plain, size, posterior"),
    ],
)
def test_a_wrong_point_is_refused_before_anything_runs(override, said):
    with pytest.raises(InputError, match=said):
        build.evaluate(composed("evaluate", override)).sweep.points(8, ["a"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pruning.deepprune.wave=0", "wave must be >= 1 or null, got 0"),
        ("pruning.deepprune.clustering=k", "clustering must be one of greedy, posterior, average"),
    ],
)
def test_a_wrong_field_of_a_policy_is_explained_in_one_line(override, said):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever Hydra raises, we explain it
        build.evaluate(composed("evaluate", override))
    explained = advise(caught.value, "evaluate", CONF)
    assert explained.startswith("pruning.deepprune: ")
    assert said in explained
    assert "\n" not in explained


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.answer_style.default=box", "data.answer_style.default must be one of auto, boxed"),
        ("calibration=beta", "calibration must be one of platt, .*, got 'beta'"),
        ("model=linear model.groups=[bigrams]", "model.groups must be some of overlaps"),
        ("beside=[linear] beside.linear.hidden=-1", "beside.linear.hidden must be >= 0, got -1"),
        ("trainer.precision=bf16-true", "must keep float32 weights, got bf16-true"),
        ("sampler=question_balanced data.group=4", "data.group must be auto or 1 with a sampler"),
        ("model.warmup=1", r"model.warmup must lie in \[0, 1\), got 1"),
        (
            "model.scheduler=step",
            "must be one of linear, cosine or null, got 'step'",
        ),
    ],
)
def test_a_wrong_part_of_a_training_is_refused_before_anything_loads(override, said):
    with pytest.raises(InputError, match=said):
        build.train(checked("train", *override.split()))


def test_a_multirun_trains_on_one_device(monkeypatch):
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.MULTIRUN))
    assert build._devices(checked("train")) == 1
    with pytest.raises(InputError, match=r"trainer\.devices must be 1 in a multirun, got 2"):
        build._devices(checked("train", "trainer.devices=2"))


def test_help_lists_every_choice_of_every_group():
    text = "".join(help_text(name, name, Path(CONF)) for name in APPLICATIONS)
    for path in CONF.glob("*/*.yaml"):
        if path.parent.name not in ("judge", "wandb"):  # the second is for `wandb sweep`
            assert path.stem in text, path


def test_a_generator_without_known_size_is_refused():
    with pytest.raises(InputError, match="net savings need the generator's size, and 'tiny'"):
        build.evaluate(composed("evaluate")).sweep.generator("tiny")
    sized = composed("evaluate", "generator={params: 1e6, layers: 2, hidden: 8}")
    assert build.evaluate(sized).sweep.generator("tiny").layers == 2
