"""The table of options is that of the constructors, and bad values stop before anything loads."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from deepprune.cli import config_folder
from deepprune.config import generate
from deepprune.config.schemas import check_ranges, register
from deepprune.core.errors import InputError


def test_the_committed_table_is_current():
    """If not: ``python -m deepprune.config.generate``."""
    folder = config_folder().parent
    table = folder / "deepprune" / "config" / "options_table.py"
    assert table.read_text() == generate.table()
    assert (folder / "docs" / "options.md").read_text() == generate.page()


def test_an_option_without_a_docstring_line_is_refused(monkeypatch):
    monkeypatch.setattr(generate, "_meanings", lambda target: {})
    with pytest.raises(ValueError, match="FirstTokens has no docstring line for k"):
        generate.page()


@pytest.mark.parametrize(
    ("application", "override", "said"),
    [
        ("train", "loss.gamma=-1", "loss.gamma must be >= 0, got -1."),
        ("train", "seed=18446744073709551615", "seed must lie in [0, 4294967295], got 1844"),
        ("train", "data.batch_size=0", "data.batch_size must be >= 1, got 0."),
        ("train", "sampler.ratio=0.5", "sampler.ratio must be >= 1, got 0.5."),
        ("train", "model.backbone.pooling=max", "must be one of last, cls, mean, segments, got"),
        ("train", "prefix.k=0", "prefix.k must be >= 1, got 0."),
        ("evaluate", "sweep.thresholds=[0.5,50]", "sweep.thresholds must lie in [0, 1], got 50."),
        ("evaluate", "sweep.margin=3", "sweep.margin must lie in (0, 1), got 3."),
        ("evaluate", "sweep.resamples=0", "sweep.resamples must be >= 1, got 0."),
        ("evaluate", "pruning.deepprune.wave=0", "pruning.deepprune.wave must be >= 1 or null"),
        ("evaluate", "engine.tokens_per_forced_answer=-1", "must be >= 0, got -1."),
        ("evaluate", "distributed.n=0", "distributed.n must be >= 1 or null, got 0."),
        ("evaluate", "sweep.networks.questions=0", "sweep.networks.questions must be >= 1"),
        ("judge_report", "data.eval_pairs_per_question=0", "must be >= 1 or null, got 0."),
        ("collect", "collect.n=0", "collect.n must be >= 1, got 0."),
        ("prune", "threshold=50", "threshold must lie in [0, 1] or null, got 50."),
        ("prune", "view=tv", "view must be one of live, json, none, got 'tv'."),
    ],
)
def test_a_value_out_of_range_is_refused_when_composed(application, override, said):
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(application, overrides=[override])
    with pytest.raises(InputError) as caught:
        check_ranges(config)
    assert said in str(caught.value)


def test_composing_and_checking_imports_nothing_heavy(tmp_path):
    """In a fresh process: torch alone takes seconds."""
    code = (
        "import sys; from deepprune.cli import main\n"
        "try: main(['train', 'loss.gamma=-1', 'hydra.run.dir=r'])\n"
        "except SystemExit as end: print(end.code)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "error: loss.gamma must be >= 0, got -1."
    code, modules = done.stdout.splitlines()
    assert code == "2"
    heavy = "torch", "transformers", "pytorch_lightning", "numpy", "scipy", "pyarrow", "pandas"
    assert not [name for name in heavy if f"'{name}'" in modules]
