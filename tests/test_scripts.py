"""Every script of ``experiments/`` and ``benchmarks/`` can be imported, which runs nothing."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_imported(script, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("WANDB_MODE", raising=False)  # transformers prints it when imported
    spec = importlib.util.spec_from_file_location(f"script_{Path(script).stem}", ROOT / script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())
