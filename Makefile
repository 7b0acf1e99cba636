# What a user does, one word each. `make` alone prints this list.
#
# Everything runs in .venv, which `make setup` creates from requirements/*.lock.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON_IN_VENV := .venv/bin/python
CLUSTER := $(PYTHON_IN_VENV) cluster/demo.py
ARGS ?=
# `cd cluster` of a script must not go to a folder of that name elsewhere.
unexport CDPATH
# Of the shell's own variable, as of DEVICE=cuda for other programs, only the words that mean something here.
ifeq ($(origin DEVICE),environment)
override DEVICE := $(filter gpu cpu,$(DEVICE))
endif

FIRST := tests/unit tests/integration tests/serve
TESTS := $(FIRST) $(filter-out $(FIRST) %__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))

# Real GSM8K problems, where a copy lies beside the checkout; otherwise they come from the hub.
ifneq ($(wildcard ../shared/gsm8k),)
RFT_GSM8K_DIR ?= $(abspath ../shared/gsm8k)
endif
ifdef RFT_GSM8K_DIR
export RFT_GSM8K_DIR
endif

.PHONY: help setup demo demo-smollm2 study serve down test test-long coverage check config-reference docs build fuzz fuzz-solutions fuzz-serve chaos chaos-demo mutants bench-store bench-verify bench-graders bench-serve bench-train bench-sampling bench-fleet gpu-smoke try-lm-eval lock clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo '  ARGS="…" adds arguments: make demo ARGS="--run.name=mine", make test ARGS="-k store"'

setup: ## Create .venv with the pinned packages (once; a few minutes); DEVICE=gpu or cpu says for what
	@bash cluster/setup.sh $(if $(DEVICE),--$(DEVICE))

demo: setup ## The whole of RFT with the shipped tiny models, in minutes, without GPU (CONTROLS=1: and why it helps)
	@$(CLUSTER) run jobs/configs/demo.yaml $(if $(filter 1 true yes,$(CONTROLS)),--controls=true) $(ARGS)

demo-smollm2: setup ## The same with SmolLM2-135M-Instruct on real GSM8K problems
	@$(CLUSTER) run jobs/configs/smollm2.yaml $(ARGS)

study: setup ## The scaling study on the tiny family, hours; resumable (ARGS="--dry-run" says how long)
	$(PYTHON_IN_VENV) jobs/scaling_study.py --config jobs/configs/study.yaml $(ARGS)

serve: setup ## Serve the newest finished run's model on loopback, until Ctrl-C
	@$(CLUSTER) serve $(ARGS)

down: ## End what demo and serve started, and nothing else
	@if [ -x $(PYTHON_IN_VENV) ]; then $(CLUSTER) down; else echo 'Nothing was running.'; fi

# Quick folders first; ARGS may name others. One process: its closing line counts every test.
test: setup ## Run the tests, except those that take minutes each (ARGS="tests/unit" for one tier)
	$(PYTHON_IN_VENV) -m pytest -o testpaths="$(TESTS)" $(ARGS)

test-long: setup ## The tests that `make test` leaves out because each takes minutes
	$(PYTHON_IN_VENV) -m pytest -m long $(or $(ARGS),tests)

# The pure folders: no Ray and no network, so unit tests reach every branch worth reaching.
PURE := rft_ray/config/* rft_ray/grading/* rft_ray/paths/* rft_ray/plan/* rft_ray/evaluation/metrics.py \
	rft_ray/store/names.py rft_ray/store/shards.py rft_ray/store/parquet.py rft_ray/store/tables.py
empty :=
comma := ,

coverage: setup ## Measure the unit tests' coverage of rft_ray and serve; the pure folders need 90 %
	$(PYTHON_IN_VENV) -m pytest --cov --cov-report=term:skip-covered --deselect tests/unit/grading/test_hostile.py tests/unit
	$(PYTHON_IN_VENV) -m coverage report --skip-covered --fail-under=90 --include='$(subst $(empty) $(empty),$(comma),$(PURE))'

check: setup ## Lint, format, types
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy

config-reference: setup ## Write docs/configuration.md from the config's schema
	$(PYTHON_IN_VENV) -m rft_ray.config.reference > docs/configuration.md.partial
	mv docs/configuration.md.partial docs/configuration.md

docs: config-reference ## Build the documentation's pages into site/, strictly: a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(PYTHON_IN_VENV) -m mkdocs build --strict --quiet

build: setup ## Build the source archive and the wheel into dist/
	$(PYTHON_IN_VENV) -m build

fuzz: setup ## A million hostile texts through the grader (ARGS="COUNT SEED"); long
	$(PYTHON_IN_VENV) tests/fuzz_grading.py $(or $(ARGS),1000000 0)

fuzz-solutions: setup ## Solutions whose verdict is known, in many forms, through strict grading (ARGS="COUNT SEED"); long
	$(PYTHON_IN_VENV) tests/fuzz_solutions.py $(or $(ARGS),1000000 0)

fuzz-serve: setup ## Thousands of hostile requests to the service (RFT_FUZZ_CASES=6000 by hand and by schema each); long
	RFT_FUZZ_CASES=$(or $(RFT_FUZZ_CASES),6000) $(PYTHON_IN_VENV) -m pytest tests/serve/test_hostile.py tests/serve/api/test_schema_fuzz.py $(ARGS)

# ARGS: --seed, --log and --folder (a disk in memory is faster: /dev/shm); other options go to one of them alone.
chaos: setup ## Whatever fails, nothing is lost: storage faults, killed processes, a real engine; very long
	$(PYTHON_IN_VENV) -m tests.chaos.proofs $(ARGS)
	$(PYTHON_IN_VENV) -m tests.chaos.kills $(ARGS)
	$(PYTHON_IN_VENV) -m tests.chaos.kills --vllm $(ARGS)

chaos-demo: setup ## `make demo` killed ten times while it works, then counted, verified and recomputed (ARGS="--kills N --seed N")
	$(PYTHON_IN_VENV) -m tests.chaos.demo_kills $(ARGS)

mutants: setup ## Faults put into the product on purpose: which test notices each? (ARGS: names of mutants); long
	$(PYTHON_IN_VENV) -m tests.chaos.mutants $(ARGS)

bench-store: setup ## What planning, listing and commits cost
	$(PYTHON_IN_VENV) benchmarks/store.py $(ARGS)

bench-verify: setup ## Grading and path selection against the plain rules, as ratios
	$(PYTHON_IN_VENV) benchmarks/verify.py $(ARGS)

bench-graders: setup ## The grader and six others on data that others labelled (ARGS="--fetch FOLDER", or files by options)
	$(PYTHON_IN_VENV) -m benchmarks.graders $(ARGS)

bench-serve: setup ## The service against the engine alone, and under ten times its load, as ratios; long
	$(PYTHON_IN_VENV) -m benchmarks.serve $(ARGS)

bench-train: setup ## Training on packed rows against padded ones, as ratios; long
	$(PYTHON_IN_VENV) -m benchmarks.train $(ARGS)

bench-sampling: setup ## The sampling stage against vLLM alone, ray.data.llm and Transformers, as ratios; an hour (ARGS=--quick)
	$(PYTHON_IN_VENV) -m benchmarks.sampling $(ARGS)

bench-fleet: setup ## The sampling stage on 8 to 32 logical GPUs, on disk and S3, while nodes leave (ARGS=--quick: 4 minutes)
	$(PYTHON_IN_VENV) -m benchmarks.fleet $(ARGS)

gpu-smoke: setup ## Every part on this machine's GPUs, in ten minutes, as a table (ARGS=--measure: sizes that matter; --cpu rehearses)
	$(PYTHON_IN_VENV) -m benchmarks.gpu_smoke $(ARGS)

try-lm-eval: .lm-eval ## lm-evaluation-harness, unchanged, against the service; 207 MB, into a folder of its own
	$(PYTHON_IN_VENV) -m pytest -m lm_eval tests/serve/test_lm_eval.py $(ARGS)

.lm-eval: requirements/lm-eval.lock | setup
	rm -rf $@ $@.partial
	$(PYTHON_IN_VENV) -m pip install --quiet --no-deps --require-hashes --target $@.partial -r $<
	mv $@.partial $@
	touch $@

lock: setup ## Refresh requirements/*.lock from pyproject.toml (ARGS=--hashes-only keeps the versions, --gpu: gpu.lock)
	@$(PYTHON_IN_VENV) cluster/lock.py $(ARGS)

clean: down ## Remove .venv and all caches (runs/ stays)
	rm -rf .venv .lm-eval .ray .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage site build dist *.egg-info
