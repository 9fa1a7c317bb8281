# Everything a developer does, one target each. `make help` lists them.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.holdfast-setup
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu lint types imports check bench bench-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## create .venv with holdfast and its tools in it
	@echo "setup: .venv is up to date"

$(READY): pyproject.toml constraints.txt
	@.ci/setup

demo: $(READY) ## assess an embedded model on real data into demo/ (under two minutes)
	$(BIN)/holdfast assess --demo -o demo
	@echo "demo: open demo/report.html in a browser"

test: $(READY) ## run the fast tests
	$(PYTEST) -n 2 -m "not slow and not gpu"

test-slow: $(READY) ## run the tests that take over ten seconds each
	$(PYTEST) -m "slow and not gpu"

test-gpu: $(READY) ## on a machine with a GPU: run the tests that need one
	$(PYTEST) tests/unit -m gpu

lint: $(READY) ## check style and formatting
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs

types: $(READY) ## check the types strictly
	$(BIN)/mypy

imports: $(READY) ## check which package may import which
	$(BIN)/lint-imports

check: lint types imports test ## lint, types, imports and the fast tests

bench: $(READY) ## run every benchmark against its peer and write benchmarks/results/
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

bench-gpu: $(READY) ## on a machine with a GPU: its benchmarks, held against what was aimed at
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --gpu

clean: ## remove the environment and everything generated
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
