# Everything runs from a clone: `make venv` installs, the other targets use that environment.

PYTHON ?= python3
VENV ?= .venv
# PyTorch is installed first and by itself. Left to fairseq's dependencies, pip takes the newest
# release, which on Linux brings several gigabytes of CUDA libraries. 2.13.0 is the release that
# the tests and the demo are run with. For another one: make venv TORCH=torch==2.11.0
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

ifeq ($(FAST),1)
SELECT := -m "not slow"
endif

.DEFAULT_GOAL := help
.PHONY: help venv test lint mutants demo bench bench-gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## make the environment .venv (to choose: PYTHON=python3.12 TORCH=torch==2.11.0)

$(STAMP): setup.py pyproject.toml constraints.txt requirements/fairseq.txt
	@$(PYTHON) requirements/check_python.py
	@echo "making $(VENV): PyTorch, fairseq and what they need, some minutes"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) -c constraints.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/fairseq.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

test: $(STAMP)  ## run the test suite (FAST=1 leaves the slow tests out; JOBS=4 takes more cores than 2)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(SELECT) $(PYTEST_ARGS)

lint: $(STAMP)  ## check the sources: ruff, the directions of imports, types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check --quiet .
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python -m mypy

mutants: $(STAMP)  ## put deliberate faults into a copy of the sources and name those that no test notices (takes long)
	$(BIN)/python -m tests.mutants

demo: $(STAMP)  ## train, decode and score a small SRformer on real text (MODEL=t5; CLEAN=1 starts over)
	PYTHON=$(BIN)/python CLEAN="$(CLEAN)" MODEL="$(MODEL)" bash recipes/demo.sh

# Another measurement is another line: its module, and the name of its JSON file where that differs.
RESULTS := benchmarks/results
MEASURE = $(BIN)/python -m benchmarks.$(1) --json $(RESULTS)/$(or $(2),$(1)).json

bench: $(STAMP)  ## measure on the CPU, renew the tables (CORPUS, GPT2_FILES: BPE; HYP, REF: ROUGE; DATA: processes)
	$(call MEASURE,operations)
	$(call MEASURE,host_operations)
	$(call MEASURE,scaling,scaling_cpu) --cpu
	$(call MEASURE,attention_content_cpu)
	$(call MEASURE,encoders,encoders_cpu) --cpu
	$(call MEASURE,vocabulary_loss,vocabulary_loss_cpu) --cases 2048x768x50264 --repeats 5
	OMP_WAIT_POLICY=PASSIVE $(call MEASURE,long_document,long_document_cpu) --cpu
	$(call MEASURE,decoding,decoding_cpu) --device cpu --systems 0 2 3 --repeats 2 --warm-up 1
ifneq ($(and $(CORPUS),$(GPT2_FILES)),)
	$(call MEASURE,bpe_encoding) $(CORPUS) $(GPT2_FILES)
endif
ifneq ($(and $(HYP),$(REF)),)
	$(call MEASURE,rouge_scoring) $(HYP) $(REF)
endif
ifneq ($(DATA),)
	$(call MEASURE,distributed,distributed_cpu) $(DATA) --cpu --sources 512 --batch-size 2 --updates 12 --warm-up 4 \
		--lr 1e-3 --ddp-backend legacy_ddp
endif
	$(BIN)/python -m benchmarks.readme_tables

bench-gpu: $(STAMP)  ## measure on a GPU, renew the tables (DATA: whole updates too; and CHECKPOINT: hypotheses too)
	$(call MEASURE,attention_core)
	$(call MEASURE,attention_content)
	$(call MEASURE,vocabulary_loss)
	$(call MEASURE,training_step) --profile --repeats 9 --warm-up 3
	$(call MEASURE,training_step,training_long) --long --repeats 5 --warm-up 2
	$(call MEASURE,decoding) --transformers --systems 0 1 2 3
	$(call MEASURE,decoding,decoding_content) --systems 0 3 4 --cases 16x4096 4x16384
	$(call MEASURE,encoders) --transformers
	$(call MEASURE,long_document) --transformers
	$(call MEASURE,scaling)
ifneq ($(DATA),)
	$(call MEASURE,training_updates) $(DATA)
	$(call MEASURE,training_profile) $(DATA)
	if [ $$($(BIN)/python -c 'import torch; print(torch.cuda.device_count())') -gt 1 ]; then \
		$(call MEASURE,training_profile,training_profile_2) $(DATA) --processes 2; fi
	$(call MEASURE,distributed) $(DATA)
endif
ifneq ($(and $(DATA),$(CHECKPOINT)),)
	$(call MEASURE,hypotheses) $(DATA) $(CHECKPOINT)
endif
	$(BIN)/python -m benchmarks.readme_tables

clean:  ## remove the environment, the demo's output and caches
	rm -rf $(VENV) .ci-venv demo_out demo_out_t5 build dist *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
