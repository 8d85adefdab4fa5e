// Dashboardpicture draws the panels of the Grafana dashboard, as a picture in
// SVG, from what a Prometheus has: to see the dashboard without a Grafana.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	from := flag.String("prometheus", "http://127.0.0.1:9090", "`URL` of Prometheus")
	file := flag.String("dashboard", "docs/deploy/prometheus/dashboard.json", "`file` of the dashboard")
	span := flag.Duration("span", 15*time.Minute, "how far back")
	out := flag.String("o", "docs/dashboard.svg", "`file` to write")
	flag.Parse()
	if err := run(*from, *file, *span, *out); err != nil {
		fmt.Fprintln(os.Stderr, "dashboardpicture:", err)
		os.Exit(1)
	}
}

// dashboard is what of Grafana's format is drawn.
type dashboard struct {
	Title  string
	Panels []panel
}

type panel struct {
	Title, Type string
	GridPos     struct{ H, W, X, Y float64 }
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Mappings []struct {
				Options map[string]struct{ Text, Color string }
			}
			Custom struct{ Stacking struct{ Mode string } }
		}
		Overrides []struct {
			Matcher struct{ Options string }
		}
	}
	Targets []struct{ Expr, LegendFormat string }
}

// line is one series of a panel.
type line struct {
	name    string
	ceiling bool
	points  [][2]float64 // Unix time, value
}

func (l line) last() float64 { return l.points[len(l.points)-1][1] }

func run(from, file string, span time.Duration, out string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	end := time.Now()
	pic := picture{from: end.Add(-span), to: end}
	for _, p := range d.Panels {
		var lines []line
		for _, t := range p.Targets {
			got, err := query(from, t.Expr, t.LegendFormat, pic.from, pic.to)
			if err != nil {
				return fmt.Errorf("panel %s: %w", p.Title, err)
			}
			lines = append(lines, got...)
		}
		for i := range lines {
			for _, o := range p.FieldConfig.Overrides {
				lines[i].ceiling = lines[i].ceiling || o.Matcher.Options == lines[i].name
			}
		}
		pic.panel(p, lines)
	}
	return os.WriteFile(out, []byte(pic.svg(d.Title)), 0o644)
}

// query is a range query; legend is how a series is called.
func query(from, expr, legend string, begin, end time.Time) ([]line, error) {
	expr = strings.NewReplacer("$job", ".*", "$instance", ".*", "$probe", ".*", "$__rate_interval", "30s").Replace(expr)
	resp, err := http.Get(from + "/api/v1/query_range?" + url.Values{
		"query": {expr}, "start": {fmt.Sprint(begin.Unix())}, "end": {fmt.Sprint(end.Unix())},
		"step": {fmt.Sprint(max(1, int(end.Sub(begin).Seconds()/200)))},
	}.Encode())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	var all []line
	for _, r := range answer.Data.Result {
		l := line{name: legend}
		for label, value := range r.Metric {
			l.name = strings.ReplaceAll(l.name, "{{"+label+"}}", value)
		}
		for _, v := range r.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			if x, err := strconv.ParseFloat(text, 64); err == nil && x == x {
				l.points = append(l.points, [2]float64{at, x})
			}
		}
		if len(l.points) > 0 {
			all = append(all, l)
		}
	}
	return all, nil
}
