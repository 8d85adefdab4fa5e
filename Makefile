# The targets need Go and make. `test`, `build` and the simulator use the race detector,
# which also needs a C compiler.

SHELL := /bin/bash
.DEFAULT_GOAL := help

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS  := -X main.version=$(VERSION) -X main.revision=$(REVISION)

# The tools of `lint` and `actionlint`. Go fetches each at its first use.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
ACTIONLINT  := github.com/rhysd/actionlint/cmd/actionlint@v1.7.7

ARGS     ?=
PORT     ?= 21000
FUZZTIME ?= 30s
BENCH    ?= .
COUNT    ?= 10
CONNECTIONS ?= 1000000
SIMTIME  ?= 10s
WORLD    ?= registry
SOAKTIME ?= 60m
THREATS  ?= .

# All targets in lower case without a slash are commands and not files.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-17s %s\n", $$1, $$2 }'

run: bin/pyrycode-relay ## run the relay here; ARGS="--grace 5s" adds options
	./bin/pyrycode-relay serve $(ARGS)

cluster: bin/pyrycode-relay-cluster ## run three relays here that share server-ids, until Ctrl-C (docs/cluster.md)
	@if [ -t 0 ]; then set -m; fi; .ci/cluster $(PORT) $(ARGS) # -m: Ctrl-C reaches the script and not make

NEMESIS ?= 30m
cluster-faults: bin/pyrycode-relay-cluster bin/relayfault ## kill, freeze and partition three relays for NEMESIS (30m); fails if two serve one server-id (docs/cluster.md)
	./bin/relayfault cluster faults --for $(NEMESIS) $(ARGS)

cluster-bench: bin/pyrycode-relay-cluster bin/relayfault ## measure the figures of docs/cluster.md: seven minutes on a quiet machine
	./bin/relayfault cluster bench $(ARGS)

build: bin/pyrycode-relay bin/pyrycode-relay-cluster bin/relayload bin/relayfault bin/relaysim bin/relaysim-race ## build everything into bin/

.PHONY: bin/pyrycode-relay bin/pyrycode-relay-cluster bin/relayload bin/relayfault bin/relaysim bin/relaysim-race
bin/pyrycode-relay:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/pyrycode-relay
bin/pyrycode-relay-cluster: # with etcd and gRPC, which a single relay does not need
	$(GO) build -trimpath -tags cluster -ldflags '$(LDFLAGS)' -o $@ ./cmd/pyrycode-relay
bin/relayload bin/relayfault bin/relaysim:
	$(GO) build -trimpath -o $@ ./cmd/$(@F)
bin/relaysim-race:
	$(GO) build -trimpath -race -o $@ ./cmd/relaysim

test: ## run all tests under the race detector
	$(GO) test -race ./...

test-short: ## run the fast tests: no race detector, no attacks, no long simulations
	$(GO) test -short $$($(GO) list ./... | grep -v /internal/battery)

cluster-test: ## test the program with clusters: it compiles and starts with the build tag
	$(GO) vet -tags cluster ./cmd/pyrycode-relay
	$(GO) test -tags cluster -run 'Cluster|Etcd' ./cmd/pyrycode-relay

vet: ## run go vet
	$(GO) vet ./...

lint: vet ## run gofmt, go vet, staticcheck and govulncheck
	@bad="$$(gofmt -l cmd internal sim)"; if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi
	@if $(GO) run $(STATICCHECK) -version >/dev/null 2>&1; then \
		echo "staticcheck"; $(GO) run $(STATICCHECK) ./...; \
	else echo "staticcheck was NOT run: it could not be fetched"; fi
	@if ! $(GO) run $(GOVULNCHECK) -version >/dev/null 2>&1; then \
		echo "govulncheck was NOT run: it could not be fetched"; \
	else echo "govulncheck"; code=0; out="$$($(GO) run $(GOVULNCHECK) ./... 2>&1)" || code=$$?; \
		if [ $$code -eq 0 ] || grep -q '^exit status 3$$' <<<"$$out"; then echo "$$out"; exit $$code; fi; \
		echo "govulncheck was NOT run: it failed, perhaps because it needs the network:"; grep govulncheck: <<<"$$out" || tail -n 2 <<<"$$out"; fi

fuzz: ## run every fuzz target for FUZZTIME (30s)
	@set -e; for dir in $$(grep -rlE '^func Fuzz[A-Z_]' --include='*_test.go' . | xargs -r -n1 dirname | sort -u); do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go | awk '{ print $$2 }' | sort -u); do \
			echo "fuzz $$dir $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
		done; done

bench: bin/pyrycode-relay bin/relayload ## compare the relay with the baseline, the splice and HAProxy: seven minutes (docs/performance.md); ARGS="--rounds 9"
	./bin/relayload bench $(ARGS)

curve: bin/pyrycode-relay bin/relayload ## measure and draw the capacity curve, docs/capacity.svg: a minute
	./bin/relayload curve --relay bin/pyrycode-relay -o docs/capacity.svg --max 4096

restart: bin/pyrycode-relay bin/relayload ## restart a relay under 1,000 pairs of clients in each way: seven minutes (docs/operate.md)
	./bin/relayload restart $(ARGS)

bench-steps: ## run the benchmarks of single steps COUNT (10) times, for benchstat; BENCH selects them
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./internal/relay ./internal/wire ./internal/daemon

million: ## measure what a million connections cost, with sockets in memory: 2 GB, three minutes; CONNECTIONS (docs/performance.md)
	CONNECTIONS=$(CONNECTIONS) $(GO) test -run TestAMillionConnections -count=1 -v -timeout 30m ./internal/relay

battery: ## run the fault tests with large doses: a quarter of an hour; prints their table (docs/reliability.md)
	@.ci/battery

docs: metrics-doc ## write the generated parts of docs/
	$(GO) test ./internal/daemon -run 'TestTheGlossaryLinksToTheIdentifiers' -update
	$(GO) test ./internal/relay -run 'TestTheDesignPageHasTheLifeOfASlot' -update
	$(GO) test ./internal/config -run 'TestTheOperatorsPageHasTheOptions' -update

threats: ## remove each mitigation that matches THREATS, and check that a test fails without it (docs/security.md)
	THREATS='$(THREATS)' $(GO) test -count=1 -timeout 60m -v -run 'TestThreatsAreNoticed' ./internal/battery

repro: bin/pyrycode-relay ## build the relay again in another directory with an empty cache, and compare
	@set -e; d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; cp -r go.mod go.sum cmd internal sim "$$d"; \
	GOFLAGS=-buildvcs=false $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o "$$d/here" ./cmd/pyrycode-relay; \
	(cd "$$d" && GOCACHE="$$d/cache" GOFLAGS=-buildvcs=false $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o there ./cmd/pyrycode-relay); \
	if ! cmp "$$d/here" "$$d/there"; then echo "two builds of the same source differ"; exit 1; fi; \
	echo "two builds in different directories are the same: $$(sha256sum <"$$d/here")"

sbom: bin/pyrycode-relay ## write out/sbom.json: the modules of the relay and their licences, as CycloneDX
	@mkdir -p out
	@.ci/sbom bin/pyrycode-relay '$(VERSION)' >out/sbom.json
	@echo "out/sbom.json: $$(grep -c '"purl"' out/sbom.json) components; licences:"
	@grep -o '"id": "[^"]*"' out/sbom.json | sort | uniq -c

soak: bin/pyrycode-relay bin/relayfault ## run all kinds of clients for SOAKTIME (60m); fails if memory, goroutines or files grow (docs/reliability.md)
	@mkdir -p out
	./bin/relayfault soak --for $(SOAKTIME) --out out/soak.svg

prometheus: ## run a Prometheus on 127.0.0.1:9191 with the alerts, for `make run` (Debian: apt-get install prometheus)
	@command -v prometheus >/dev/null || { echo "prometheus is not installed: apt-get install prometheus, or https://prometheus.io/download"; exit 1; }
	@mkdir -p out
	prometheus --config.file=docs/deploy/prometheus/local.yml --storage.tsdb.path=out/prometheus --web.listen-address=127.0.0.1:9191

metrics-doc: ## write docs/metrics.md
	$(GO) test ./internal/daemon -run 'TestTheMetricsPageHasEveryMetric' -update

sim: bin/relaysim bin/relaysim-race ## sweep every simulated world for SIMTIME (10s)
	@for w in $$(./bin/relaysim worlds); do ./bin/relaysim-race sweep -world $$w -for $(SIMTIME) -out sim-artefacts || exit 1; done

COVERSEEDS ?= 300
COVERED := ./internal/relay,./internal/cluster,./internal/wire,./internal/front,./internal/lifecycle
COVERED_PKGS := $(subst ./,github.com/pyrycode/pyrycode-relay/,$(COVERED))
sim-coverage: ## measure which statements of the relay COVERSEEDS (300) seeds of each world run: out/sim-coverage.html; fails if sim/testdata/uncovered.txt does not explain the others
	@mkdir -p out
	@$(GO) build -trimpath -cover -coverpkg=$(COVERED),./cmd/relaysim -o bin/relaysim-cover ./cmd/relaysim
	@set -e; d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; export GOCOVERDIR="$$d"; \
	for w in $$(./bin/relaysim-cover worlds); do ./bin/relaysim-cover sweep -world $$w -seeds 1-$(COVERSEEDS) -out sim-artefacts | tail -n 1; done; \
	$(GO) tool covdata percent -pkg=$(COVERED_PKGS) -i="$$d"; $(GO) tool covdata textfmt -pkg=$(COVERED_PKGS) -i="$$d" -o out/sim-coverage.txt; \
	$(GO) tool cover -html out/sim-coverage.txt -o out/sim-coverage.html; echo "out/sim-coverage.html shows the statements that were not run"; \
	SIM_COVERAGE="$$PWD/out/sim-coverage.txt" $(GO) test -count=1 -run TestUncoveredFunctionsAreExplained ./sim

mutants: bin/relaysim-race ## plant each bug of sim/mutants and check that the simulator finds it; updates sim/mutants/kills-WORLD.md; WORLD=registry, relay, cluster or front
	./bin/relaysim-race mutants -world $(WORLD) -n 3 -limit 3000 -each 2s -o sim/mutants/kills-$(WORLD).md $(ARGS)

# The plain build gets four fifths of the time, because it runs four to seven times as many
# seeds. Each night begins at other seeds, and mutates the runs that earlier nights have kept.
# A failure does not end the night. Runs that break in the same way are stored once.
FROM ?= $(shell date +%Y%m%d)000000000
sim-nightly: bin/relaysim bin/relaysim-race ## sweep every world with every strategy, from seed FROM (of today) on, and a small scope exhaustively: an hour
	./bin/relaysim-race reach
	./bin/relaysim exhaustive -bound 2 -for 5m
	@code=0; for w in $$(./bin/relaysim worlds); do for s in uniform sticky pct2 pct3 pct4 starve; do \
		./bin/relaysim sweep -world $$w -strategy $$s -seeds $(FROM)- -for 130s -corpus sim-corpus -out sim-artefacts || code=1; \
		./bin/relaysim-race sweep -world $$w -strategy $$s -seeds $(FROM)- -for 35s -out sim-artefacts || code=1; done; done; exit $$code

actionlint: ## check the workflows of GitHub Actions
	@if $(GO) run $(ACTIONLINT) -version >/dev/null 2>&1; then $(GO) run $(ACTIONLINT); \
	else echo "actionlint was NOT run: it could not be fetched"; fi

cross: ## run go vet for every system of a release
	@set -e; for s in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		echo "vet $$s"; CGO_ENABLED=0 GOOS=$${s%/*} GOARCH=$${s#*/} $(GO) vet ./...; done

dist: ## build a release into dist/: archives, bills of materials, SHA256SUMS
	.ci/dist

dist-twice: ## build a release twice, and check that the bytes are the same
	@set -e; d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; \
	.ci/dist >/dev/null; cp dist/SHA256SUMS "$$d"; .ci/dist; cmp "$$d/SHA256SUMS" dist/SHA256SUMS
