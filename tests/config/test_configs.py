"""Every shipped config is composed, and every constructor call in it fits its signature."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from deepprune.cli import config_folder
from deepprune.config import build
from deepprune.config.advice import advise
from deepprune.config.help import help_text
from deepprune.config.schemas import register
from deepprune.errors import InputError

CONF = config_folder()
APPLICATIONS = ("train", "evaluate")
MULTIPLE = {"pruning", "callbacks"}
CHOICES = [
    (application, f"{group.name}={f'[{p.stem}]' if group.name in MULTIPLE else p.stem}")
    for application in APPLICATIONS
    for group in sorted(p for p in CONF.iterdir() if p.is_dir())
    for p in sorted(group.glob("*.yaml"))
    if f"- {group.name}:" in (CONF / f"{application}.yaml").read_text()
    if application == "train" or group.name != "experiment"
]


@pytest.fixture(autouse=True, scope="module")
def _schemas():
    register()


def composed(application, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(application, overrides=list(overrides))


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
        signature = inspect.signature(target)
        if node.get("_partial_") or "callbacks" in node["_target_"]:
            signature.bind_partial(**arguments)
        else:
            signature.bind(**arguments)


def test_every_file_is_reachable():
    """No shipped YAML is left that no application composes."""
    composed_files = {c.split("=")[0] + "/" + c.split("=")[1].strip("[]") for _, c in CHOICES}
    shipped = {str(p.relative_to(CONF).with_suffix("")) for p in CONF.glob("*/*.yaml")}
    assert shipped == composed_files


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.threshold=[0.5]", "did you mean sweep.thresholds?"),
        ("los=bce", "did you mean loss?"),
        ("loss.gama=3", "did you mean loss.gamma?"),
        ("loss=focl", "did you mean focal? Those that exist: bce, focal, weighted_bce."),
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
        ("sweep.thresholds=[50]", r"\[0, 1\], got 50"),
        ("sweep.thresholds=[]", "sweep.thresholds is empty"),
        ("sweep.prefix_lens=[0]", "k must be >= 1, got 0"),
        ("sweep.prefix_lens=[1.5]", "whole numbers, got 1.5"),
        ("sweep.resamples=0", "at least 1, got 0"),
        ("sweep.ks=[0]", ">= 1"),
    ],
)
def test_a_wrong_axis_is_refused_before_anything_loads(override, said):
    with pytest.raises(InputError, match=said):
        build.sweep(composed("evaluate", override))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.answer_style.default=box", "data.answer_style.default must be one of auto, boxed"),
        ("data.batch_size=0", "data.batch_size must be at least 1, got 0"),
        ("data.pairs_per_question=0", "data.pairs_per_question must be at least 1, got 0"),
        ("sampler.ratio=0.5", "sampler: .*got 0.5"),
    ],
)
def test_a_wrong_part_of_a_training_is_refused_before_anything_loads(override, said):
    with pytest.raises(InputError, match=said):
        build.fit_parts(composed("train", override))


def test_help_lists_every_choice_of_every_group():
    text = help_text("train", "python train.py", Path(CONF))
    for path in CONF.glob("*/*.yaml"):
        if path.parent.name != "judge":
            assert path.stem in text, path


def test_a_generator_without_known_size_is_refused():
    config = composed("evaluate")
    assert isinstance(config, DictConfig)
    with pytest.raises(InputError, match="net savings need the generator's size, and 'tiny'"):
        build.generators(config, [_group("tiny")])
    sized = composed("evaluate", "generator={params: 1e6, layers: 2, hidden: 8}")
    assert build.generators(sized, [_group("tiny")])["tiny"].layers == 2


def _group(model):
    from dataclasses import replace

    from builders import group

    return replace(group(["a", "b"]), model=model)
