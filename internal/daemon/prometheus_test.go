package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.yaml.in/yaml/v3"
)

var prometheusDir = filepath.Join("..", "..", "docs", "deploy", "prometheus")

const rulesFile, rulesTestFile, dashboardFile = "pyrycode-relay.rules.yml", "pyrycode-relay.rules_test.yml", "dashboard.json"

// promtool runs it, or skips: the machine that tests every change must have
// no more than Go. Where REQUIRE_PROMTOOL is set it must be there.
func promtool(t *testing.T, stdin, dir string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("REQUIRE_PROMTOOL") != "" {
			t.Fatal("REQUIRE_PROMTOOL is set and there is no promtool")
		}
		t.Skip("there is no promtool here (Debian: prometheus), so this was NOT checked with it")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin, cmd.Dir = strings.NewReader(stdin), dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// rules is a rules file.
type rules struct {
	Groups []group `yaml:"groups"`
}

type group struct {
	Name  string `yaml:"name"`
	Rules []rule `yaml:"rules"`
}

type rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

func readRules(t *testing.T) (all []rule) {
	t.Helper()
	var file rules
	text, err := os.ReadFile(filepath.Join(prometheusDir, rulesFile))
	if err == nil {
		err = yaml.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("%d rules", len(all))
	}
	return all
}

// panel is what of a panel of the dashboard is looked at.
type panel struct {
	Title       string `json:"title"`
	Type        string `json:"type"`
	Description string `json:"description"`
	Targets     []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func readDashboard(t *testing.T) (all []panel) {
	t.Helper()
	var file struct {
		Panels     []panel `json:"panels"`
		Templating struct {
			List []struct{ Name, Query string }
		}
	}
	text, err := os.ReadFile(filepath.Join(prometheusDir, dashboardFile))
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Panels
}

// plain is expr with the variables of Grafana filled in.
var plain = strings.NewReplacer("$job", "pyrycode-relay", "$instance", ".*", "$probe", ".*", "$__rate_interval", "1m")

// expressions is every expression of rules and dashboard, by where it stands.
func expressions(t *testing.T) map[string]string {
	all := make(map[string]string)
	for _, r := range readRules(t) {
		all["rule "+r.Record+r.Alert] = r.Expr
	}
	n := 0
	for _, p := range readDashboard(t) {
		for i, target := range p.Targets {
			all[fmt.Sprintf("panel %s, %d", p.Title, i+1)] = plain.Replace(target.Expr)
			n++
		}
	}
	if n < 12 {
		t.Errorf("%d expressions in the dashboard", n)
	}
	return all
}

var (
	// nameAndMatchers is a metric and, if there are any, its matchers.
	nameAndMatchers = regexp.MustCompile(`([a-z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})?`)
	matcher         = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	ofMetrics       = regexp.MustCompile(`^(pyrycode_|process_|go_|instance:|up$)`)
	grouping        = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right) ?\(([^)]*)\)`)
)

// probeMetrics returns the metrics of `probe --listen` with their labels and values, from
// the operators' page. A test of the exporter checks that page.
func probeMetrics(t *testing.T) map[string]map[string][]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]map[string][]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(pyrycode_relay_probes?_[a-z_]+)` \\| [a-z]+ \\| ([^|]*) \\|").FindAllStringSubmatch(string(page), -1) {
		labels := make(map[string][]string)
		for _, l := range strings.Split(m[2], "<br>") {
			name, values, _ := strings.Cut(l, ": ")
			labels[strings.Trim(name, "` ")] = strings.Split(strings.ReplaceAll(values, "`", ""), ", ")
		}
		all[m[1]] = labels
	}
	if len(all) < 5 {
		t.Fatalf("only %d metrics of the probe on the operators' page", len(all))
	}
	return all
}

// Every metric that a rule or panel names exists, with that label and, where
// one is asked for, that value; what else can be written wrong promtool finds.
func TestRulesAndDashboardNameWhatExists(t *testing.T) {
	families := gathered(t)
	exists := map[string]map[string][]string{"up": {}}
	for _, f := range families {
		labels := map[string][]string{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		exists[f.GetName()] = labels
		if f.GetType() == dto.MetricType_HISTOGRAM {
			exists[f.GetName()+"_bucket"], exists[f.GetName()+"_count"], exists[f.GetName()+"_sum"] = labels, labels, labels
		}
	}
	for name, labels := range probeMetrics(t) {
		exists[name], exists[name+"_bucket"] = labels, labels
	}
	for _, r := range readRules(t) {
		if r.Record != "" {
			exists[r.Record] = map[string][]string{"outcome": exists["pyrycode_relay_ws_upgrade_attempts_total"]["outcome"]}
		}
	}
	for where, expr := range expressions(t) {
		named := 0
		for _, m := range nameAndMatchers.FindAllStringSubmatch(grouping.ReplaceAllString(expr, ""), -1) {
			name := m[1]
			if !ofMetrics.MatchString(name) {
				continue
			}
			named++
			labels, ok := exists[name]
			if !ok {
				t.Errorf("%s: there is no metric %s", where, name)
				continue
			}
			for _, mm := range matcher.FindAllStringSubmatch(m[2], -1) {
				label, op, value := mm[1], mm[2], mm[3]
				if label == "job" || label == "instance" || label == "le" {
					continue
				}
				values, ok := labels[label]
				if !ok {
					t.Errorf("%s: %s has no label %s", where, name, label)
					continue
				}
				for _, v := range strings.Split(value, "|") {
					if strings.Contains(op, "~") && strings.ContainsAny(v, ".*+") {
						continue
					}
					if !slices.Contains(values, v) {
						t.Errorf("%s: %s of %s is never %q", where, label, name, v)
					}
				}
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, label := range strings.Split(g[1], ",") {
				label = strings.TrimSpace(label)
				known := label == "job" || label == "instance" || label == "le"
				for name, labels := range exists {
					if _, ok := labels[label]; ok && strings.Contains(expr, name) {
						known = true
					}
				}
				if !known {
					t.Errorf("%s: nothing in it has the label %s", where, label)
				}
			}
		}
		if named == 0 {
			t.Errorf("%s names no metric: %s", where, expr)
		}
	}
}

// Each alert has a severity, a sentence, a place in the runbook and a test in
// which it fires and one in which it does not; and the reverse.
func TestAlertsHaveTheirRunbookAndTests(t *testing.T) {
	var tests struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Exp  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	text, err := os.ReadFile(filepath.Join(prometheusDir, rulesTestFile))
	if err == nil {
		err = yaml.Unmarshal(text, &tests)
	}
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, tt := range tests.Tests {
		for _, a := range tt.Alerts {
			if len(a.Exp) > 0 {
				fires[a.Name] = true
			} else {
				quiet[a.Name] = true
			}
		}
	}
	var alerts, chapters []string
	for _, r := range readRules(t) {
		if r.Alert == "" {
			continue
		}
		alerts = append(alerts, r.Alert)
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s: tested to fire: %t, to be quiet: %t; want both", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/runbook.md#"+strings.ToLower(r.Alert)) || !strings.HasSuffix(r.Annotations["summary"], ".") {
			t.Errorf("%s: annotations %q; want a sentence and its place in the runbook", r.Alert, r.Annotations)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^## (\w+)$`).FindAllStringSubmatch(string(runbook), -1) {
		chapters = append(chapters, m[1])
	}
	if !slices.Equal(alerts, chapters) {
		t.Errorf("alerts %q; the runbook has %q", alerts, chapters)
	}
}

func TestPromtoolChecksTheRules(t *testing.T) {
	promtool(t, "", prometheusDir, "check", "rules", rulesFile)
	promtool(t, "", prometheusDir, "test", "rules", rulesTestFile)
}

// The expressions of the dashboard are parsed by Prometheus' own parser.
func TestPromtoolChecksTheDashboard(t *testing.T) {
	g := group{Name: "dashboard"}
	for _, p := range readDashboard(t) {
		for i, target := range p.Targets {
			g.Rules = append(g.Rules, rule{Record: "x", Expr: plain.Replace(target.Expr), Labels: map[string]string{"panel": fmt.Sprint(p.Title, i)}})
		}
	}
	text, err := yaml.Marshal(rules{Groups: []group{g}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "", "check", "rules", file)
}

func TestPromtoolChecksTheMetrics(t *testing.T) {
	families := gathered(t)
	var b strings.Builder
	enc := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, b.String(), "", "check", "metrics")
}

// The dashboard has its rows, each with panels, and every limit that has
// something to hold it against is drawn.
func TestTheDashboardHasItsRows(t *testing.T) {
	want := []string{"Is it up?", "Is it full?", "Does it move?", "Why did they leave?", "What do users see?", "Are phones woken?", "Do the relays share?", "May they use it?"}
	var rows []string
	in := 0
	var all strings.Builder
	for _, p := range readDashboard(t) {
		if p.Type == "row" {
			if len(rows) > 0 && in < 3 {
				t.Errorf("row %q has %d panels", rows[len(rows)-1], in)
			}
			rows, in = append(rows, p.Title), 0
			continue
		}
		in++
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: description %q, %d targets", p.Title, p.Description, len(p.Targets))
		}
		for _, target := range p.Targets {
			chosen := `job=~"$job", instance=~"$instance"`
			if strings.Contains(target.Expr, "pyrycode_relay_probe") {
				chosen = `instance=~"$probe"`
			}
			if !strings.Contains(target.Expr, chosen) {
				t.Errorf("panel %q does not ask for %s: %s", p.Title, chosen, target.Expr)
			}
			all.WriteString(target.Expr)
		}
	}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %q; want %q", rows, want)
	}
	for _, l := range []string{"limit_connections", "limit_pending_connections", "limit_open_files", "limit_memory_bytes"} {
		if !strings.Contains(all.String(), l) {
			t.Errorf("the dashboard does not draw %s", l)
		}
	}
}
