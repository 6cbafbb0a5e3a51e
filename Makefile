# SynthMix. `make help` lists what there is. Everything is set up by what needs it; nothing is installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/synthmix/tools
MINIO_VERSION := v0.0.0-20260212201848-7aac2a2c5b7c
HELM_VERSION := v3.21.4
HELM_DOCS_VERSION := v1.14.2
HELM_DOCS = $(TOOLS)/bin/helm-docs --chart-search-root charts/synthmix --sort-values-order alphanum --log-level error
COREDNS_VERSION := v1.12.4
KUBERAY := github.com/ray-project/kuberay/ray-operator@v1.6.0
KUBERNETES_PROGRAMS := $(addprefix $(TOOLS)/bin/,kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl kubelet)
KUBE_ROUTER_VERSION := v2.1.0
PROMETHEUS_VERSION := v0.316.0
KWOK := sigs.k8s.io/kwok@v0.8.0
NODE_PROGRAMS := $(KUBERNETES_PROGRAMS) $(addprefix $(TOOLS)/bin/,coredns kube-router minio prometheus ray-operator)
KUBERNETES_VERSION_FLAGS = $(foreach flag,gitVersion=v1.34.4 gitMajor=1 gitMinor=34,-X k8s.io/component-base/version.$(flag))

# The first that works: a client may be there without its engine.
CONTAINER_TOOL ?= $(shell for tool in docker podman buildah; do $$tool info >/dev/null 2>&1 && echo $$tool && break; done)
IMAGE_PREFIX ?= ghcr.io/synthmix
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Where it is set, as in many containers, each of the hundreds of processes would compile torch's modules again: 10 s of
# CPU each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo images test test-unit test-contracts test-chart test-integration lint format protos check-protos chart-docs check-chart-docs lock clean base-model base-model-figures real-studies calibration fuzz e2e e2e-cluster

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
setup: $(VENV)/.ready ## Install SynthMix and what it needs into .venv
demo: setup ## Run the sample study from start to report (about 10 minutes on 2 cores)
	$(BIN)/synthmix --home demo demo

images: ## Build the container images (needs docker, podman or buildah; deploy/images/README.md)
	@test -n "$(CONTAINER_TOOL)" || { echo "needs docker, podman or buildah: install one" >&2; exit 1; }
	set -e; for target in control worker; do \
	  BUILDAH_FORMAT=docker $(CONTAINER_TOOL) build --file deploy/images/Dockerfile --target $$target --tag $(IMAGE_PREFIX)/$$target:$(IMAGE_TAG) \
	    $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(if $(TORCH_INDEX_URL),--build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL)) \
	    --build-arg VERSION=$(IMAGE_TAG) --build-arg REVISION=$(shell git rev-parse HEAD) $(IMAGE_BUILD_FLAGS) .; \
	done

##@ Develop
test: test-unit test-contracts test-chart test-integration ## Run every test that CI runs, the quickest first
test-unit: setup ## Tests without a network, in less than a minute
	$(BIN)/python -m pytest tests/unit --numprocesses=logical --dist=worksteal
test-contracts: setup $(TOOLS)/bin/minio ## The object store's contract against every server
	$(BIN)/python -m pytest tests/contracts
test-chart: setup $(TOOLS)/bin/helm $(TOOLS)/bin/kube-apiserver ## The Helm chart: as it renders, and installed into a real API server
	$(BIN)/python -m pytest tests/chart
test-integration: setup ## Real gRPC, real S3, real Ray
	$(BIN)/python -m pytest tests/integration
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
base-model: setup ## Retrain the built-in base model into build/base-model (about 2 hours on 2 cores; needs ../shared/data)
	$(BIN)/python -m pretraining --mitocheck ../shared/data/mitocheck --out build/base-model --minutes 120
base-model-figures: setup ## Adapt the built-in base model and measure what it makes (about 70 minutes on 2 cores; needs ../shared/data)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/base_model.py --out build/base-model-figures
real-studies: setup ## Run the paper's six mixtures on real images (20 to 50 minutes on 2 cores; needs ../shared/data)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/real_studies.py --home build/real-studies
calibration: setup ## Count wrong claims of equivalence over simulated studies (about 25 minutes)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/calibration.py --out build/calibration
fuzz: setup ## Call every gRPC method with random, mutated and extreme messages: make fuzz CALLS=100000 SEED=7
	PYTHONPATH=tests $(BIN)/python tests/fuzzing.py --calls $(CALLS) $(if $(SEED),--seed $(SEED))

e2e-cluster: setup $(NODE_PROGRAMS) $(TOOLS)/bin/helm ## Start the cluster that `make e2e` makes, and leave it running (needs what README says)
	CONTAINER_TOOL=$(CONTAINER_TOOL) PYTHONPATH=tests $(BIN)/python -m cluster
e2e: setup $(addprefix $(TOOLS)/bin/,helm kubectl kwok) $(if $(KUBECONFIG),,$(NODE_PROGRAMS)) ## The chart in a cluster that runs it: $$KUBECONFIG's, or one made here (needs what README says)
	CONTAINER_TOOL=$(CONTAINER_TOOL) $(BIN)/python -m pytest tests/e2e -sv --timeout=3600

##@ Generated files
protos: setup ## Generate services/synthmix/api from protos/
	$(BIN)/python protos/generate.py
check-protos: setup ## Generated code is current, protos lint, and no earlier client breaks
	$(BIN)/python protos/generate.py --check
chart-docs: $(TOOLS)/bin/helm-docs ## Write the chart's README from its values
	$(HELM_DOCS)
check-chart-docs: $(TOOLS)/bin/helm-docs ## The chart's README is current
	@$(HELM_DOCS) --dry-run | diff - charts/synthmix/README.md || { echo "charts/synthmix/README.md isn't current: run make chart-docs" >&2; exit 1; }
lock: setup ## Pin every package anew
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-emit-index-url --generate-hashes --extra dev pyproject.toml -o requirements.lock

##@ Housekeeping
clean: ## Remove what make made
	rm -rf $(VENV) build demo

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "SynthMix needs Python 3.11 or newer; $(PYTHON) is older. Use make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(TOOLS)/bin/helm:
	@command -v go >/dev/null || { echo "the chart's tests need Helm, or Go 1.26 or newer to build it: install one, or put a helm binary at $@" >&2; exit 1; }
	GOBIN=$(TOOLS)/bin go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)

$(TOOLS)/bin/helm-docs:
	GOBIN=$(TOOLS)/bin go install github.com/norwoodj/helm-docs/cmd/helm-docs@$(HELM_DOCS_VERSION)

# By the pinned versions of tests/cluster/go.mod; the first takes about 4 minutes on 2 cores, once.
$(KUBERNETES_PROGRAMS):
	@command -v go >/dev/null || { echo "the tests need Kubernetes' $(@F), which Go 1.25 or newer builds: install it, or put a $(@F) binary at $@" >&2; exit 1; }
	cd tests/cluster && CGO_ENABLED=0 go build -trimpath -o $@ -ldflags "-s -w $(KUBERNETES_VERSION_FLAGS)" k8s.io/kubernetes/cmd/$(@F)

# Static: images hold nothing but them.
$(TOOLS)/bin/coredns:
	CGO_ENABLED=0 GOBIN=$(TOOLS)/bin go install -trimpath -ldflags "-s -w" github.com/coredns/coredns@$(COREDNS_VERSION)

$(TOOLS)/bin/kube-router:
	CGO_ENABLED=0 GOBIN=$(TOOLS)/bin go install -trimpath -ldflags "-s -w" github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@$(KUBE_ROUTER_VERSION)

$(TOOLS)/bin/kwok:
	CGO_ENABLED=0 GOBIN=$(TOOLS)/bin go install -trimpath -ldflags "-s -w" $(subst @,/cmd/kwok@,$(KWOK))

# With discovery in Kubernetes, which Debian's is built without.
$(TOOLS)/bin/prometheus:
	CGO_ENABLED=0 GOBIN=$(TOOLS)/bin go install -trimpath -ldflags "-s -w" -tags remove_all_sd,enable_kubernetes_sd github.com/prometheus/prometheus/cmd/prometheus@$(PROMETHEUS_VERSION)

$(TOOLS)/bin/ray-operator:
	CGO_ENABLED=0 GOBIN=$(TOOLS)/bin go install -trimpath -ldflags "-s -w" $(KUBERAY)

# MinIO publishes no binaries any more; its community edition is built from source, once.
$(TOOLS)/bin/minio:
	@command -v go >/dev/null || { echo "the MinIO contract tests need Go 1.24 or newer: install it (Debian: apt-get install golang), or put a minio binary at $@" >&2; exit 1; }
	GOBIN=$(TOOLS)/bin go install github.com/minio/minio@$(MINIO_VERSION)
