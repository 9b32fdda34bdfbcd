# Every target sets up .venv when it is missing or older than the requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
EASY_VQA ?= easy_vqa

.PHONY: help demo check test lint quality docs style app bench clean
help:            ## Show the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

$(STAMP): requirements.txt requirements-dev.txt
ifeq ($(UV),)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
else
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -r requirements-dev.txt
endif
	touch $(STAMP)

demo: $(STAMP)   ## Train on the built-in data, score held-out rows, draw where it looked
	$(BIN)/python train.py configs/quickstart.yaml --overwrite true

check: lint      ## Check format, lint and types, and run the fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test: $(STAMP)   ## Run all tests, also those that train and serve
	$(BIN)/python -m pytest -m "slow or not slow" -n 2 --dist worksteal

quality: lint docs  ## Check format, lint, types and documentation

lint: $(STAMP)   ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)   ## Build the website of the documentation in runs/site; a dead link fails
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

style: $(STAMP)  ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

app: runs/quickstart/summary.txt  ## Open the trained quick start in the browser, and its API; train it first if need be
	$(BIN)/python -m app serve runs/quickstart

runs/quickstart/summary.txt: | $(STAMP)
	$(BIN)/python train.py configs/quickstart.yaml

bench: $(STAMP)  ## Measure, on easy_vqa in the folder EASY_VQA; figures go to docs/
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.contexts
	$(BIN)/python -m benchmarks.training $(EASY_VQA)

clean:           ## Remove the environment and caches (runs stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
