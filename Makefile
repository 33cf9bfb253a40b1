# make demo: set up .venv, train a judge on the bundled traces, run the pruning sweep.
# make demo DEMO=live: prune one question while its recorded traces are played.
# make test: set up .venv, run the quick tests.
# make test-all: run all tests; the real engine where it can be had.
# make test-vllm: run those on real vLLM, on the CPU of a Linux x86-64 machine.
# make check: lint, format, types.
# make docs: build the documentation into build/site; a broken link, anchor or reference fails.
# make outputs: run the commands whose output README and docs show, and put it there; docs/report.png.
# make clean: remove .venv and .venv-vllm; results in runs stay.
# make constraints: record the versions in .venv as those that CI has seen pass.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test test-all test-vllm check docs outputs constraints clean
demo: .venv/demo
	$(BIN)/$(if $(filter live,$(DEMO)),deepprune prune basic_arithmetic-04 threshold=0.6,python train.py)

test: .venv/test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: .venv/dev
	$(BIN)/python -m pytest -m "not slow and not vllm" -n 2 --dist worksteal
	$(BIN)/python -m pytest -m "slow and not vllm" -n 2 --dist worksteal
	$(MAKE) test-vllm

test-vllm: .venv/dev
	.ci/vllm python -m pytest -m vllm -p no:unraisableexception || test $$? -eq 3

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

outputs: .venv/dev
	$(BIN)/python docs/outputs.py

constraints: .venv/dev
	$(BIN)/python .ci/constraints.py

# Each installs once, and again only when the dependencies have changed; each has those before it.
HAS_demo := .venv/demo
HAS_test := $(HAS_demo) .venv/test
HAS_dev := $(HAS_test) .venv/dev
.venv/demo .venv/test .venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deepprune needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[$(@F)]'
	touch $(HAS_$(@F))

clean:
	rm -rf .venv .venv-vllm
