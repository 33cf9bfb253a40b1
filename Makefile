# make demo: set up .venv, train a judge on the bundled traces, run the pruning sweep.
# make test: set up .venv, run the tests.
# make test-vllm: run those on real vLLM, on the CPU of a Linux x86-64 machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-vllm check clean
demo: .venv/ready
	$(BIN)/python train.py

test: .venv/ready
	$(BIN)/python -m pytest

test-vllm:
	.ci/vllm python -m pytest -m vllm -p no:unraisableexception

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installs once, and again only when the dependencies have changed.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deepprune needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[demo,dev]'
	touch $@

clean:
	rm -rf .venv .venv-vllm runs
