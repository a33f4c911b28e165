# `make demo` and `make test` are all a newcomer needs; both set up .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
# One torch build for everybody; on a machine with a GPU any 2.9 or later will do.
TORCH ?= torch==2.13.0
# Test processes; each takes its share of the cores. A whole file of tests goes to one of them.
WORKERS ?= 2
BIN := $(VENV)/bin
CHECKPOINT := .cache/demo/checkpoint
BENCH := .cache/bench
# `--genai DIR`, where optimum-intel made DIR of the checkpoint and openvino-genai is installed.
BENCH_GENAI ?=
# NVIDIA's parser and builder on hosts without a GPU, where it lies beside the checkout.
TENSORRT_CPU := $(wildcard ../shared/tensorrt_cpu)

.PHONY: help demo test test-slow lint bench benchmarks bench-7b bench-engines docs clean

help:
	@echo "make demo      build the demo model, export it, answer three questions about a picture"
	@echo "make test      lint, types, import contracts and all tests but the slow ones"
	@echo "make test-slow the slow tests"
	@echo "make bench     the speed figures of docs/benchmarks.md (quiet machine, 10 minutes)"
	@echo "make benchmarks  all tables of docs/benchmarks.md that need no other tool (quiet machine, an hour)"
	@echo "make bench-7b  export a 7B-shaped model and measure it (30 GB of disk)"
	@echo "make bench-engines  build TensorRT-RTX engines and measure it (10 GB of disk)"

$(VENV)/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev,demo,tensorrt]"
	$(if $(TENSORRT_CPU),$(BIN)/pip install --quiet --disable-pip-version-check $(TENSORRT_CPU))
	touch $@

$(CHECKPOINT)/config.json: $(VENV)/ready $(wildcard examples/digits-vlm/weights/*) \
		examples/digits-vlm/build_checkpoint.py
	rm -rf $(CHECKPOINT)
	mkdir -p $(dir $(CHECKPOINT))
	$(BIN)/python examples/digits-vlm/build_checkpoint.py $(CHECKPOINT)

demo: $(CHECKPOINT)/config.json
	$(BIN)/sparsevlm demo --checkpoint $(CHECKPOINT) --workdir .cache/demo

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not gpu" $(PYTEST_ARGS)

$(VENV)/ready-slow: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test-slow]"
	touch $@

test-slow: $(VENV)/ready-slow $(CHECKPOINT)/config.json
	$(BIN)/python -m pytest -m "slow" $(PYTEST_ARGS)

docs: $(VENV)/ready
	$(BIN)/python -m pytest -q tests/test_help.py

# A missed bar is told, and is no failure (benchmarks/bars.py).
OR_MISSED = || test $$? -eq 3

bench: $(CHECKPOINT)/config.json
	$(BIN)/python benchmarks/chain.py $(CHECKPOINT) --json benchmarks/results/chain.json $(OR_MISSED)

$(BENCH)/bundle: $(CHECKPOINT)/config.json
	$(BIN)/sparsevlm export $(CHECKPOINT) $@

# The model in one piece, to hold the chain against.
$(BENCH)/one-piece: $(CHECKPOINT)/config.json
	$(BIN)/sparsevlm export $(CHECKPOINT) $@ --method none

# Its quantised form, of pictures that nothing here asks about.
$(BENCH)/int8: $(BENCH)/bundle
	$(BIN)/python examples/digits-vlm/make_questions.py $(BENCH)/calibration --count 40 --first 3000
	$(BIN)/sparsevlm calibrate quantize $(BENCH)/bundle $@ --scheme int8 --keep 28 \
		--data $(BENCH)/calibration/questions.jsonl --limit 48 --budgets none,192,64

benchmarks: bench $(BENCH)/bundle $(BENCH)/one-piece $(BENCH)/int8
	$(BIN)/sparsevlm bench $(BENCH)/bundle --image examples/digits-vlm/sample/scene.png \
		--question "What digit is red?" --runners onnxruntime,openvino,openvino:float32 \
		--budgets none,192,64 --beside $(BENCH)/one-piece --beside $(BENCH)/int8 \
		--checkpoint $(CHECKPOINT) $(BENCH_GENAI) --roofline --twice --out benchmarks/results/contenders.json
	$(BIN)/sparsevlm bench $(BENCH)/bundle --budgets none,0.33 --roofline --rounds 3 \
		--shape 144x64 --shape 576x64 --shape 1152x64 --shape 2880x64 --shape 576x16 --shape 576x256 \
		--shape 576x1024 --shape 576x64x4 --shape 576x64x8 --out benchmarks/results/growth.json
	$(BIN)/python benchmarks/one_piece.py $(BENCH)/bundle $(BENCH)/one-piece --rounds 9 \
		--json benchmarks/results/one_piece.json $(OR_MISSED)
	$(BIN)/python benchmarks/memory.py $(BENCH)/bundle \
		--json benchmarks/results/memory.json $(OR_MISSED)
	$(BIN)/python examples/digits-vlm/make_questions.py $(BENCH)/questions --count 125
	$(BIN)/python benchmarks/fidelity.py $(BENCH)/bundle --data $(BENCH)/questions/questions.jsonl \
		--engine openvino --engine onnxruntime=$(BENCH)/int8 --engine openvino=$(BENCH)/int8 \
		--positions compact --positions original --json benchmarks/results/fidelity.json $(OR_MISSED)
	$(BIN)/python benchmarks/document.py

bench-7b: $(VENV)/ready
	$(BIN)/python benchmarks/export_7b.py .cache/7b --json benchmarks/results/export_7b.json

bench-engines: $(CHECKPOINT)/config.json
	$(BIN)/python benchmarks/engines.py .cache/engines --demo $(CHECKPOINT) --attention \
		--json benchmarks/results/engines.json

clean:
	rm -rf .cache build dist *.egg-info
