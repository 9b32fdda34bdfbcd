# Every target sets up .venv when it is missing or older than the requirements: demo and app with what they need, the
# others with the tools of development, too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
UV := $(shell command -v uv 2>/dev/null)
TORCH_CPU ?= https://download.pytorch.org/whl/cpu
EASY_VQA ?= easy_vqa

# Bytecode of all packages takes longer to write than to install them, and most of it is never read: Python writes that of
# a module when it is first imported.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check test lint quality docs style app bench gpu clean
help:            ## Show the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

ifeq ($(UV),)
NEW_VENV := $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --upgrade pip
INSTALL := $(BIN)/python -m pip install --quiet --no-compile
CPU_BUILD := --extra-index-url $(TORCH_CPU)
else
NEW_VENV := $(UV) venv --quiet --python $(PYTHON) $(VENV)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
CPU_BUILD := --torch-backend cpu
endif

# PyPI's builds of PyTorch for Linux bring gigabytes of CUDA. Without a GPU, PyTorch's own index has smaller ones.
define install
	@test -x $(BIN)/python || { $(NEW_VENV); }
	@build=; if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null && ! command -v rocm-smi > /dev/null \
	  && $(BIN)/python -c "from urllib.request import urlopen; urlopen('$(TORCH_CPU)/torch/', timeout=5)" 2> /dev/null; \
	then echo "no GPU: PyTorch's CPU build"; build="$(CPU_BUILD)"; fi; \
	echo "installing $(1) in $(VENV)"; $(INSTALL) $$build -r $(1)
endef

$(STAMP): requirements.txt
	$(call install,requirements.txt)
	@touch $(STAMP)

$(DEV): requirements.txt requirements-dev.txt
	$(call install,requirements-dev.txt)
	@touch $(STAMP) $(DEV)

demo: $(STAMP)   ## Train on the built-in data, score held-out rows, draw where it looked
	$(BIN)/python train.py configs/quickstart.yaml --overwrite true

check: lint      ## Check format, lint and types, and run the fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test: $(DEV)     ## Run all tests, also those that train and serve
	$(BIN)/python -m pytest -m "slow or not slow" -n 2 --dist worksteal

quality: lint docs  ## Check format, lint, types and documentation

lint: $(DEV)     ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DEV)     ## Build the website of the documentation in runs/site; a dead link fails
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

style: $(DEV)    ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

app: runs/quickstart/summary.txt  ## Open the trained quick start in the browser, and its API; train it first if need be
	$(BIN)/python -m app serve runs/quickstart

runs/quickstart/summary.txt: | $(STAMP)
	$(BIN)/python train.py configs/quickstart.yaml

bench: $(DEV)    ## Measure, on easy_vqa in the folder EASY_VQA; figures go to docs/
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.contexts
	$(BIN)/python -m benchmarks.training $(EASY_VQA)

gpu: $(STAMP)    ## Measure on a GPU, in nine minutes; the tables go to docs/
	$(BIN)/python -m benchmarks.gpu

clean:           ## Remove the environment and caches (runs stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
