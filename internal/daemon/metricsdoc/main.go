// Metricsdoc writes docs/metrics.md from what a fresh relay exposes.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

func main() {
	out := flag.String("o", "docs/metrics.md", "`file` to write")
	flag.Parse()
	page, err := page()
	if err == nil {
		err = os.WriteFile(*out, page, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "metricsdoc:", err)
		os.Exit(1)
	}
}

const head = `# Metrics

Generated from the code by ` + "`make metrics-doc`" + `; a test fails when it differs.

They are at ` + "`/metrics`" + ` on the private listener (` + "`--metrics-listen`, by default `127.0.0.1:9090`" + `).
All series stand at 0 from the start. The gauges of what is connected, and
` + "`pyrycode_relay_grace_expiries_total`" + `, are read under one lock: each scrape is a
state that the relay was really in. No label carries an id, an address or
anything else that a peer can choose.

Those that begin with ` + "`pyrycode_relay_cluster_`" + ` are there only if the relay is part of a
cluster ([cluster.md](cluster.md)).

Besides these there are the usual ` + "`go_*`, `process_*` and `promhttp_*`" + `.

| Name | Type | Labels | What it says |
|---|---|---|---|
`

// families gathers what a relay that nobody has connected to exposes.
func families() ([]*dto.MetricFamily, error) {
	metrics, err := daemon.Metrics()
	if err != nil {
		return nil, err
	}
	all, err := metrics.Gather()
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		return !strings.HasPrefix(f.GetName(), "pyrycode_relay_")
	}), err
}

// page is docs/metrics.md.
func page() ([]byte, error) {
	all, err := families()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(head)
	for _, f := range all {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()),
			labels(f), strings.ReplaceAll(f.GetHelp(), "|", "\\|"))
	}
	return b.Bytes(), nil
}

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
