# Every target needs only git, make, and Python 3.12 to 3.14 or uv: .ci/venv makes .venv and installs into it.
.DEFAULT_GOAL := help
.PHONY: help demo test lint format typecheck gate bench soak soak-retrain fuzz audit test-slurm test-image test-api-server docs lock clean
.DELETE_ON_ERROR:

BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.installed-docs
BENCH_INSTALLED := .venv/.installed-bench
ARGS ?=
KUBERNETES ?= /tmp/dvi-kubernetes
export PYTHON

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ARGS=... is passed on by demo, test, bench and docs; PYTHON=/path/to/python names the interpreter of .venv."

demo: $(INSTALLED) ## Install, then run the demonstration: dvi demo
	$(BIN)/dvi demo $(ARGS)

test: lint typecheck ## Lint, check types and run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## Repair what lint can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(INSTALLED) ## Check types
	$(BIN)/mypy --strict dvi

gate: $(INSTALLED) ## Recover known posteriors with 32 seeds, and judge other fits: tests/statistical
	DVI_GATE_SEEDS=32 $(BIN)/python -m pytest tests/statistical --override-ini timeout=0 $(ARGS)

bench: $(BENCH_INSTALLED) ## Run the benchmarks, tests/benchmarks/bench_*.py: a table, and bench-results/
	$(BIN)/python -m pytest tests/benchmarks --override-ini python_files='bench_*.py' \
		--override-ini python_functions='bench_*' --override-ini timeout=0 -p no:warnings --capture=no $(ARGS)

soak: $(INSTALLED) ## Kill processes of fits at random moments, and compare bits: tests/integration/soak.py
	$(BIN)/python -m tests.integration.soak $(ARGS)

soak-retrain: $(INSTALLED) ## Kill scheduled runs at random moments, and compare their state: tests/retraining/soak.py
	$(BIN)/python -m tests.retraining.soak $(ARGS)

fuzz: $(INSTALLED) ## Give hostile input to everything that reads some: tests/fuzz
	ulimit -v 16000000 && \
		DVI_FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/fuzz --override-ini timeout=0 --capture=no $(ARGS)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group fuzz
	for target in load zarr npy parquet csv optimizers settings; do \
		$(BIN)/python -m tests.fuzz.guided $$target -runs=5000 -print_funcs=0 -verbosity=0 2> /dev/null || exit 1; done

audit: $(INSTALLED) ## Check the pinned dependencies: that they agree, and that no vulnerability is known of them
	$(BIN)/uv pip check --python $(BIN)/python
	$(BIN)/uv tool run --quiet pip-audit --requirement constraints.txt --disable-pip --no-deps # asks PyPI

test-slurm: $(INSTALLED) ## Run the tests on a Slurm of this machine's own: Debian's slurm-wlm and munge, as root
	tests/integration/slurm/up.sh && tests/integration/slurm/down.sh # installs it
	$(BIN)/python -m pytest tests/integration/slurm $(ARGS)

test-image: ## Build the container image with buildah on a local base, and run its entry point
	sh tests/deploy/image.sh

test-api-server: $(INSTALLED) ## Give the manifests to a real API server, which is built first: Debian 12, as root
	DVI_KUBERNETES=$(KUBERNETES) sh tests/deploy/api_server.sh
	DVI_KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest tests/deploy/test_api_server.py $(ARGS)

docs: $(DOCS_INSTALLED) ## Build the documentation, with what its pages compute: docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going docs docs/_build/html $(ARGS)

# Not the extra `pathfinder`, whose package holds PyMC below the newest version.
lock: $(INSTALLED) ## Resolve constraints.txt anew, to the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.12 --group dev --group bench --group fuzz \
		$(addprefix --extra ,dashboard demo docs jobqueue kubernetes metrics parquet plots storage) \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml

clean: ## Remove .venv, caches and build output
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	rm -rf docs/_build docs/_generated docs/reference/generated docs/tutorials/variational-quickstart.md
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt .ci/venv
	@sh .ci/venv

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[demo,docs]'
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group bench
	touch $@
