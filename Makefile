# Shoal. `make` lists what there is to do. It needs Go, Python 3.11 and a C
# compiler; everything else comes into .venv and bin, both ignored by git.

SHELL    := /bin/bash
GO       ?= go
PYTHON   ?= python3
VENV     := .venv
PY       := $(VENV)/bin/python
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

GO_SOURCES := $(shell find . -name '*.go' -not -path './.*' -not -name '*_test.go') go.mod go.sum
PY_SOURCES := $(wildcard python/shoal/*.py) python/setup.py python/pyproject.toml python/README.md
PIP        := $(PY) -m pip --disable-pip-version-check --quiet
LINTED     := $(wildcard python scripts examples test bench)

.DEFAULT_GOAL := help
.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

.PHONY: build
build: ## build the server, bin/shoal: one static binary
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o bin/shoal ./cmd/shoal

.PHONY: setup
setup: $(VENV)/.shoal ## make .venv with the SDK, its server, and what the tests need

.PHONY: test
test: ## run every test; the last line counts them
	@$(PYTHON) scripts/test.py $(STEPS)

.PHONY: demo
demo: $(VENV)/.shoal ## serve a digit classifier and an adder; 1,797 queries with and without batches
	@$(PY) examples/digits/demo.py

.PHONY: bench
bench: ## measure beside the peers; takes 25 minutes and wants a quiet machine (ARGS=--smoke: a few)
	@$(PYTHON) bench/run.py $(ARGS)

# What is judged is HEAD, by default this tree with what is not committed yet.
BASE ?= main
HEAD ?= worktree
.PHONY: bench-compare
bench-compare: ## tell whether this tree lost speed against BASE=main; HEAD=REV judges a revision
	@$(PYTHON) bench/compare.py $(BASE) $(HEAD) $(ARGS)

MINUTES ?= 10
.PHONY: soak
soak: $(VENV)/.shoal ## full load for MINUTES=10: every answer right, and memory flat
	@$(PY) bench/soak.py --minutes $(MINUTES) $(ARGS)

.PHONY: chaos
chaos: MINUTES = 2
chaos: $(VENV)/.shoal ## everything goes wrong for MINUTES=2, and no query is lost (ARGS="--report": into docs/reliability.md)
	@$(PY) bench/chaos.py --minutes $(MINUTES) $(ARGS)

SECONDS_EACH = $(or $(SECONDS),30)
.PHONY: fuzz
fuzz: $(VENV)/.shoal ## fuzz every decoder for SECONDS=30 each
	@$(PYTHON) scripts/fuzz.py --seconds $(SECONDS_EACH) $(ARGS)

.PHONY: overload
overload: MINUTES = 2
overload: $(VENV)/.shoal ## ten times what a backend can compute for MINUTES=2: who is answered, who is refused, how soon
	@$(PY) bench/overload.py --minutes $(MINUTES) $(ARGS)

.PHONY: swap
swap: $(VENV)/.shoal ## replace a backend under load: latency before and during, in 25 seconds (ARGS=--cold: without warm-up)
	@$(PY) bench/swap.py $(ARGS)

.PHONY: lint
lint: $(VENV)/.deps ## golangci-lint, ruff, mypy
	$(GO) run $(GOLANGCI) run ./...
	$(VENV)/bin/ruff check $(LINTED)
	$(VENV)/bin/ruff format --check $(LINTED)
	cd python && ../$(VENV)/bin/mypy

.PHONY: fmt
fmt: $(VENV)/.deps ## format Go and Python
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')
	$(VENV)/bin/ruff check --fix-only --quiet $(LINTED)
	$(VENV)/bin/ruff format $(LINTED)

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(VENV) python/build python/shoal/bin python/*.egg-info

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.deps: $(VENV)/.made test/requirements.txt
	$(PIP) install -r test/requirements.txt
	@touch $@

# The SDK as users install it: a wheel with the server in it.
$(VENV)/.shoal: $(VENV)/.deps $(GO_SOURCES) $(PY_SOURCES)
	@rm -rf python/build # setuptools would keep modules there that are gone
	$(PIP) install --force-reinstall --no-deps ./python
	$(PIP) install './python[dev]'
	@touch $@
