# Commands for readers and authors; `make` alone lists them. Works with GNU make 3.81 and later.
#
#   make PYTHON=python3.13 book             another Python, which makes .venv anew
#   make CHROMIUM=/path/to/chrome test      another browser
#   make ARGS="-k bayes -x" test            more arguments for pytest
#   make PAGES=book/bayes.ipynb notebooks   one page only
#   make BENCHMARKS=mixture bench           one benchmark only
#   make SETTINGS="threads=1 aten=default" matrix   some of the processors only
#   make PORT=8001 serve                    another port

PYTHON ?= python3
PORT ?= 8000
ARGS ?=
PAGES ?=
BENCHMARKS ?=
SETTINGS ?=

BIN := .venv/bin
# An interpreter asked for by name may replace an environment of another version.
CHOSEN := $(if $(filter file,$(origin PYTHON)),,--chosen)
export NFBOOK_GOAL := $(firstword $(MAKECMDGOALS))

# Two or more processes. loadscope keeps a notebook's cells together and in order. What takes long
# goes first: pytest would begin with what has many tests, and end with one process alone.
PARALLEL ?= -n logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help environment book test notebooks bench lab lint serve links matrix pins clean
# Each command takes all processors by itself, and two may not change .venv at a time.
.NOTPARALLEL:

# Makes .venv or brings it up to date: "book" leaves out what the static book does not need.
define MAKE_ENVIRONMENT
@command -v "$(PYTHON)" > /dev/null || { \
  echo "There is no $(PYTHON) here. nfbook needs Python 3.11 or newer:" >&2; \
  echo "install one, or name one:  make PYTHON=/path/to/python $(NFBOOK_GOAL)" >&2; \
  exit 1; }
@"$(PYTHON)" tools/environment.py $(CHOSEN)
endef

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

environment: ## make or update .venv with all the pinned packages
	$(MAKE_ENVIRONMENT)

book: ## build the HTML book and say where to open it
	$(MAKE_ENVIRONMENT) book
	@$(BIN)/python tools/build_book.py

test: environment book ## test the package, its examples, every notebook and the built site
	@$(BIN)/python tools/chromium.py
	@# One thread for each process: threads that share a core wait for each other.
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} \
	  $(BIN)/python -m pytest $(PARALLEL) --nbval book tests nfbook $(ARGS)

notebooks: environment ## run the notebooks and store their outputs
	$(BIN)/python tools/run_notebooks.py $(PAGES)

bench: environment ## measure speed and memory, and store the results that the book shows
	@# The libraries that flows are measured against; nothing else needs them.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement benchmarks/peers.txt
	$(BIN)/python benchmarks/run.py $(BENCHMARKS)

lab: environment ## work on the notebooks in JupyterLab
	$(BIN)/python -m jupyterlab --LabApp.default_url=/lab/tree/book

lint: environment ## check style and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

serve: book ## serve the built book on this machine
	@$(BIN)/python tools/serve.py $(PORT)

links: ## check the links that leave the book (needs the network)
	$(MAKE_ENVIRONMENT) book
	@$(BIN)/python tools/build_book.py --links

matrix: environment ## run all that trains or draws as on other processors; takes long
	@$(BIN)/python tools/matrix.py $(SETTINGS)

pins: ## pin the newest versions that pyproject.toml admits
	@"$(PYTHON)" tools/pins.py

clean: ## remove the built book and all caches, but keep .venv
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache nfbook.egg-info
	find book nfbook tests tools -name __pycache__ -prune -exec rm -rf {} +
	find book -name .ipynb_checkpoints -prune -exec rm -rf {} +
