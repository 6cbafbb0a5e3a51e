# SynthMix. `make help` lists what there is. Everything is set up by what needs it; nothing is installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/synthmix/tools
HELM_DOCS = $(TOOLS)/bin/helm-docs --chart-search-root charts/synthmix --sort-values-order alphanum --log-level error
# Builds, once, those that are not on the machine, with Go, which it gets itself.
PROGRAMS = $(BIN)/python tests/programs.py
NODE_PROGRAMS := kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl kubelet etcd coredns kube-router minio prometheus ray-operator

# The first that works: a client may be there without its engine.
CONTAINER_TOOL ?= $(shell for tool in docker podman buildah; do $$tool info >/dev/null 2>&1 && echo $$tool && break; done)
IMAGES ?= control worker minio seaweedfs
IMAGE_PREFIX ?= ghcr.io/synthmix
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Where it is set, as in many containers, each of the hundreds of processes would compile torch's modules again: 10 s of
# CPU each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo images test test-programs test-unit test-components test-contracts test-chart test-integration lint format protos check-protos chart-docs check-chart-docs lock clean base-model base-model-figures real-studies calibration operations-at-scale study-at-scale adapter-formats adapter-options bench fuzz soak e2e e2e-cluster

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
setup: $(VENV)/.ready ## Install SynthMix and what it needs into .venv
demo: setup ## Run the sample study from start to report (about 10 minutes on 2 cores)
	$(BIN)/synthmix --home demo demo

images: ## Build the container images (needs docker, podman or buildah; deploy/images/README.md)
	@test -n "$(CONTAINER_TOOL)" || { echo "needs docker, podman or buildah: install one" >&2; exit 1; }
	set -e; for target in $(IMAGES); do \
	  BUILDAH_FORMAT=docker $(CONTAINER_TOOL) build --file deploy/images/Dockerfile --target $$target --tag $(IMAGE_PREFIX)/$$target:$(IMAGE_TAG) \
	    $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(if $(TORCH_INDEX_URL),--build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL)) \
	    --build-arg VERSION=$(IMAGE_TAG) --build-arg REVISION=$(shell git rev-parse HEAD) $(IMAGE_BUILD_FLAGS) .; \
	done

##@ Develop
test: test-unit test-components test-programs test-contracts test-chart test-integration ## Run every test that CI runs, the quickest first (15 minutes on 2 cores; 20 more the first time)
test-programs: setup ## Get what the tests run: built once, in about 20 minutes on 2 cores, unless the machine has it
	$(PROGRAMS) kube-apiserver minio prometheus promtool helm etcd
test-unit: setup ## Tests without a network, in a minute
	$(BIN)/python -m pytest tests/unit --numprocesses=auto --dist=worksteal
test-components: setup ## One part each with processes, models or trainings of its own
	$(BIN)/python -m pytest tests/components --numprocesses=logical --dist=worksteal
test-contracts: setup ## The object store's contract against every server
	$(PROGRAMS) minio
	$(BIN)/python -m pytest tests/contracts --numprocesses=logical --dist=worksteal
test-chart: setup ## The Helm chart: as it renders, and installed into a real API server
	$(PROGRAMS) kube-apiserver helm etcd promtool
	$(BIN)/python -m pytest tests/chart --numprocesses=logical --dist=loadfile
test-integration: setup ## Real gRPC, real S3, real Ray
	$(PROGRAMS) prometheus
	$(BIN)/python -m pytest tests/integration --numprocesses=logical
lint: setup ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint deploy/images/Dockerfile
format: setup ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

##@ Longer evidence
CALLS ?= 20000
MINUTES ?= 120
TESTS ?= tests/e2e
base-model: setup ## Retrain the built-in base model, or go on with it, in ~/.cache/synthmix/base-model (about 30 hours of one core; needs ../shared/data)
	nice -n 19 $(BIN)/python -m pretraining --mitocheck ../shared/data/mitocheck --out $(HOME)/.cache/synthmix/base-model
base-model-figures: setup ## Adapt the built-in base model and measure what it makes (about 70 minutes on 2 cores; needs ../shared/data)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/base_model.py --out build/base-model-figures
real-studies: setup ## Run the paper's six mixtures on real images (20 to 50 minutes on 2 cores; needs ../shared/data)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/real_studies.py --home build/real-studies
calibration: setup ## Count wrong claims of equivalence over simulated studies (about 25 minutes)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/calibration.py --out build/calibration
operations-at-scale: setup ## Measure lists, rounds and a host with 10,000 finished and 1,000 open operations (about 5 minutes on 2 cores)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/operations_at_scale.py --out build/operations-at-scale
study-at-scale: setup ## Run a study of 100 short adapters and 400 trials, and look at memory and idle workers (about half an hour on 2 cores)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/study_at_scale.py --home build/study-at-scale/home --out build/study-at-scale
adapter-formats: setup ## Export adapters of every method, read them as other programs do, and write tests/benchmarks/results/adapter-formats.md (some minutes)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/adapter_formats.py --out tests/benchmarks/results/adapter-formats.md
adapter-options: setup ## Compare 27 adapters on real images, three seeds each, and write tests/benchmarks/results/adapter-options.md (about 5 hours on 2 cores; needs ../shared/data)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/adapter_options study run search compare table --home $(HOME)/.cache/synthmix/adapter-options
bench: setup ## Measure ours beside others' loops, and write tests/benchmarks/results/performance.md (QUICK=1: in 5 minutes, into build/performance)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/performance $(if $(QUICK),--quick)
fuzz: setup ## Call every gRPC method with random, mutated and extreme messages: make fuzz CALLS=100000 SEED=7
	PYTHONPATH=tests $(BIN)/python tests/fuzzing.py --calls $(CALLS) $(if $(SEED),--seed $(SEED))
soak: setup ## Break something each minute while 8 callers work: make soak MINUTES=120 SEED=7 (half an hour more on 2 cores; needs root, or DISK, the folder of a small file system to fill)
	PYTHONPATH=tests $(BIN)/python -m soak --out build/soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
	  $(if $(EVERY),--every $(EVERY)) $(if $(CALLERS),--callers $(CALLERS)) $(if $(DISK),--disk $(DISK))

e2e-cluster: setup ## Start the cluster that `make e2e` makes, and leave it running (needs what README says)
	$(PROGRAMS) --built $(NODE_PROGRAMS)
	$(PROGRAMS) helm
	CONTAINER_TOOL=$(CONTAINER_TOOL) PYTHONPATH=tests $(BIN)/python -m cluster
e2e: setup ## The chart in a cluster that runs it: $$KUBECONFIG's, or one made here; or some of it, TESTS="tests/e2e/test_tls.py" (needs what README says)
	$(PROGRAMS) helm kubectl kwok
	$(if $(KUBECONFIG),,$(PROGRAMS) --built $(NODE_PROGRAMS))
	CONTAINER_TOOL=$(CONTAINER_TOOL) $(BIN)/python -m pytest $(TESTS) -sv --timeout=3600

##@ Generated files
protos: setup ## Generate services/synthmix/api from protos/
	$(BIN)/python protos/generate.py
check-protos: setup ## Generated code is current, protos lint, and no earlier client breaks
	$(BIN)/python protos/generate.py --check
chart-docs: setup ## Write the chart's README from its values
	$(PROGRAMS) helm-docs
	$(HELM_DOCS)
check-chart-docs: setup ## The chart's README is current
	@$(PROGRAMS) helm-docs
	@$(HELM_DOCS) --dry-run | diff - charts/synthmix/README.md || { echo "charts/synthmix/README.md isn't current: run make chart-docs" >&2; exit 1; }
lock: setup ## Pin every package anew
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-emit-index-url --generate-hashes --extra dev pyproject.toml -o requirements.lock
	echo '# uv, which installs everything else, by hash. `make lock` writes it.' > requirements-uv.txt
	echo uv | $(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --generate-hashes --no-header --no-annotate - >> requirements-uv.txt

##@ Housekeeping
clean: ## Remove what make made
	rm -rf $(VENV) build demo

$(VENV)/.ready: requirements.lock requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "SynthMix needs Python 3.11 or newer; $(PYTHON) is older. Use make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
