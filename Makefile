# The commands of a developer and of CI. `make` alone lists them.
SHELL := /bin/bash
# Files are UTF-8, whatever the locale.
export PYTHONUTF8 := 1
PY := .venv/bin/python
# More words for the command that runs, as in: make run ARGS="--for 30s"   make test-fast ARGS="-k murmur"
ARGS :=
MINUTES := 60
PYTEST := $(PY) -m pytest
# Tests run in parallel, each process with its own broker. Most wait for other processes most of the time, so there are
# three for each core; each needs 2 GiB.
JOBS := $(shell n=$$(( 3 * $$(nproc) )); m=$$(awk '/MemAvailable/ {print int($$2 / 2097152)}' /proc/meminfo); \
	n=$$(( n < m ? n : m )); n=$$(( n < 8 ? n : 8 )); echo $$(( n > 1 ? n : 1 )))
# The tests that call kernels: bounds checks find nothing in other tests, and half of the random examples suffice.
KERNEL_TESTS := $(addprefix tests/unit/,core edge jit kafka sim fingerprint verify worker) tests/property tests/hostile
NO_KERNELS := $(addprefix tests/property/test_,activity_property breaker_property control_property lane_model \
	spool_property) $(addprefix tests/hostile/test_,attacks fuzz_http http_routes)
BOUNDS_EXAMPLES := 0.5
# What the release tests fail without (tests/support/needs.py); on a machine without XDP, set KLAIS_REQUIRE.
RELEASE_NEEDS := broker,prometheus,browser,kcat,spin,llm,kernel,image,clients,toolchains,man,tutorial
PARALLEL := -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests setup-release run test test-fast test-bounds release-test docs screenshots wheel deb \
	sbom soak bench bench-outage results paper lint clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install and compile everything (skips what is installed)
	@bin/setup

run: setup ## set up, then start Kafka, edge, worker and simulated devices; Ctrl-C stops all
	@exec .venv/bin/klais up $(ARGS)

setup-tests: ## the same, and the tools of the tests: Chromium, Prometheus
	@bin/setup --tests

test: setup-tests ## set up, then everything that CI checks (about 20 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j2 --output-sync=line lint test-bounds
	@echo "== all tests =="
	@$(PYTEST) -q tests $(PARALLEL) $(ARGS)

test-fast: .venv/klais-setup.stamp ## unit and property tests, for every save (under a minute)
	@$(PYTEST) -q tests/unit tests/property $(PARALLEL) $(ARGS)

test-bounds: .venv/klais-setup.stamp ## the kernels' tests with numba's bounds checks (compiled apart)
	@echo "== kernels with bounds checks =="
	@NUMBA_BOUNDSCHECK=1 KLAIS_TEST_EXAMPLES=$${KLAIS_TEST_EXAMPLES:-$(BOUNDS_EXAMPLES)} \
		$(PYTEST) -q $(KERNEL_TESTS) $(NO_KERNELS:%=--ignore=%.py) $(PARALLEL)

setup-release: ## the same, and the tools of the release tests: buildah, mmdebstrap, Go, Rust, Node.js
	@bin/setup --release

release-test: setup-release lint test-bounds docs ## before a release: all tests, more kills and examples, a long soak
	@export KLAIS_REQUIRE=$${KLAIS_REQUIRE:-$(RELEASE_NEEDS)}; \
		KLAIS_TEST_SEARCH=1 KLAIS_TEST_EXAMPLES=10 KLAIS_FAULT_ROUNDS=100 KLAIS_TEST_XDP_PACKETS=1000000 \
		KLAIS_TEST_OUTAGE_S=60 KLAIS_TEST_BUSY=4 KLAIS_TEST_JOINS=50 KLAIS_TEST_JOIN_DEVICES=200000 \
		KLAIS_TEST_SOAK_MINUTES=30 KLAIS_TEST_IMAGE=1 KLAIS_TEST_TUTORIAL=1 KLAIS_TEST_CLIENTS=1 KLAIS_TEST_BENCHES=1 \
		KLAIS_TEST_WHEEL=1 KLAIS_TEST_UPDATES=600 KLAIS_TEST_HOSTILE_CASES=10000000 \
		$(PYTEST) -q tests $(PARALLEL) $(ARGS)

docs: .venv/klais-setup.stamp ## the documentation as a site in build/site; a warning is an error
	@$(PY) -m sphinx -q -W --keep-going -b html -c docs/site . build/site
	@echo "build/site/docs/site/index.html"

screenshots: setup-tests ## the pictures of the live page in docs/images, from recorded figures
	@KLAIS_TEST_IMAGES=docs/images $(PYTEST) -q tests/browser/test_images.py $(ARGS)

wheel: .venv/klais-setup.stamp ## a wheel with compiled kernels in dist (ARGS="--level x86-64-v2 --level x86-64-v3")
	@$(PY) -m deploy.wheel $(ARGS)

deb: .venv/klais-setup.stamp ## a Debian package with wheel, units and man pages in dist (docs/operations.md)
	@$(PY) -m deploy.deb $(ARGS)

sbom: .venv/klais-setup.stamp ## the bill of materials of the image, CycloneDX, to build/sbom.json
	@mkdir -p build && $(PY) -m deploy.sbom > build/sbom.json && echo "build/sbom.json"

soak: setup ## random faults under load, then an audit (make soak MINUTES=60)
	@KLAIS_TEST_SOAK_MINUTES=$(MINUTES) $(PYTEST) -q -s tests/fault/test_soak.py $(ARGS)

lint: .venv/klais-setup.stamp ## ruff and mypy
	@echo "== ruff, mypy =="
	@.venv/bin/ruff check .
	@.venv/bin/mypy

bench: setup ## all benchmarks, to bench/results/latest.json (bench/README.md: compare, keep)
	@$(PY) -m bench $(ARGS)

bench-outage: setup ## no broker for 10 minutes at 20,000 frames/s (ARGS="--seconds 15")
	@$(PY) -m bench outage $(ARGS)

results: .venv/klais-setup.stamp ## bench/RESULTS.md, docs/plots and the figures of the paper from bench/results
	@$(PY) -m bench results

paper: .venv/klais-setup.stamp ## docs/RESEARCH_PAPER.md as PDF in build (needs Chromium: make setup-tests)
	@$(PY) -m bench.paper_pdf $(ARGS)

clean: ## remove .venv and files of tools; keeps data (.klais) and the cache of jars and kernels
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/klais-setup.stamp: pyproject.toml bin/setup requirements-dev.lock
	@bin/setup
	@touch $@
