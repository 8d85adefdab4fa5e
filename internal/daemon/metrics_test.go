package daemon

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/transport"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/golden"
)

// gathered returns every metric of a relay that is part of a cluster, as it is at the
// start.
func gathered(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	p, err := newProcess(t.Context(), config.Default(), Env{Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	id, err := clustercert.Derive("the secret of a test", "relay-1")
	if err != nil {
		t.Fatal(err)
	}
	c := clustered{directory: leaderless{}}
	if c.links, err = transport.Listen(transport.Config{Listen: "127.0.0.1:0", Server: id.Server(), Client: id.Client()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.links.Close)
	if c.node, err = cluster.New(cluster.Config{Directory: clustertest.NewMemory(nil).Port(), Network: c.links}); err != nil {
		t.Fatal(err)
	}
	reg := p.relay.Metrics()
	if err := c.register(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// own returns the metrics of families that are the relay's own.
func own(families []*dto.MetricFamily) []*dto.MetricFamily {
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "pyrycode_relay_") })
}

func TestTheMetricsPageHasEveryMetric(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(metricsHead)
	for _, f := range own(gathered(t)) {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()),
			labels(f), strings.ReplaceAll(f.GetHelp(), "|", "\\|"))
	}
	golden.File(t, "docs/metrics.md", b.String())
}

func TestMetricsFollowTheRulesOfPrometheus(t *testing.T) {
	all := own(gathered(t))
	if len(all) < 50 {
		t.Fatalf("only %d metrics", len(all))
	}
	problems, err := promlint.NewWithMetricFamilies(all).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// metricsHead is the text of docs/metrics.md before its table.
var metricsHead = strings.ReplaceAll(`# Metrics

To read the metrics of a relay on this machine:

    curl -s http://127.0.0.1:9090/metrics

They are on the private listener ('--metrics-listen', by default '127.0.0.1:9090'). All series are 0
at the start. One scrape reads the gauges of connections, and 'pyrycode_relay_grace_expiries_total',
under one lock, so it shows a state that the relay really had. No label has a value that a peer can
choose, such as an id or an address.

The metrics that begin with 'pyrycode_relay_cluster_' exist only if the relay is part of a cluster
([cluster.md](cluster.md)). The relay also has the usual 'go_*', 'process_*' and 'promhttp_*'.

'make metrics-doc' generates this page from the code, and a test compares them.

| Name | Type | Labels | What it says |
|---|---|---|---|
`, "'", "`")

// labels lists the labels of f, each with the values it has.
func labels(f *dto.MetricFamily) string {
	var names []string
	values := make(map[string][]string)
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if _, seen := values[l.GetName()]; !seen {
				names = append(names, l.GetName())
			}
			if v := l.GetValue(); v != "" && !slices.Contains(values[l.GetName()], "`"+v+"`") {
				values[l.GetName()] = append(values[l.GetName()], "`"+v+"`")
			}
			if values[l.GetName()] == nil {
				values[l.GetName()] = []string{} // of the build: known, but not here
			}
		}
	}
	for i, n := range names {
		if len(values[n]) > 0 {
			slices.Sort(values[n])
			names[i] = "`" + n + "`: " + strings.Join(values[n], ", ")
		} else {
			names[i] = "`" + n + "`"
		}
	}
	return strings.Join(names, "<br>")
}
