package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// The grid of Grafana: 24 columns, here of so many pixels.
const column, rowHeight, gap = 50, 27, 8

// colours tell series apart; the legend names each besides.
var colours = []string{"#2f6f5e", "#c98a1b", "#3c6fb4", "#a3446b", "#6b5ca5", "#4f8f3a", "#b4532a", "#5b6670"}

// picture is the panels drawn so far.
type picture struct {
	from, to time.Time
	body     strings.Builder
	height   float64
}

func (d *picture) panel(p panel, lines []line) {
	slices.SortStableFunc(lines, func(a, b line) int {
		if p.FieldConfig.Defaults.Custom.Stacking.Mode != "normal" {
			return 0 // as the dashboard has them
		}
		return cmp.Compare(a.name, b.name)
	})
	g := p.GridPos
	x, y, w, h := g.X*column+gap/2, g.Y*rowHeight+50, g.W*column-gap, g.H*rowHeight-gap
	d.height = max(d.height, y+h)
	if p.Type == "row" {
		fmt.Fprintf(&d.body, `<text class="row" x="%g" y="%g">%s</text>`+"\n", x, y+15, html.EscapeString(p.Title))
		return
	}
	fmt.Fprintf(&d.body, `<rect class="card" x="%g" y="%g" width="%g" height="%g" rx="8"/><text class="title" x="%g" y="%g">%s</text>`+"\n",
		x, y, w, h, x+12, y+22, html.EscapeString(p.Title))
	switch {
	case len(lines) == 0:
		fmt.Fprintf(&d.body, `<text class="soft" x="%g" y="%g" text-anchor="middle">nothing to show</text>`+"\n", x+w/2, y+h/2)
	case p.Type == "stat":
		d.stat(p, lines, x, y, w, h)
	default:
		d.graph(p, lines, x+56, y+34, w-70, h-88)
		d.legend(lines, x+12, y+h-22, w)
	}
}

func (d *picture) stat(p panel, lines []line, x, y, w, h float64) {
	text, class := amount(lines[0].last(), p.FieldConfig.Defaults.Unit), "stat"
	for _, m := range p.FieldConfig.Defaults.Mappings {
		if o, ok := m.Options[fmt.Sprint(lines[0].last())]; ok {
			text = o.Text
			if o.Color == "red" {
				class = "stat bad"
			}
		}
	}
	if lines[0].name != "" && strings.Contains(p.Targets[0].LegendFormat, "{{") {
		text = fmt.Sprintf("%g × %s", lines[0].last(), lines[0].name)
	}
	size := min(30, 1.5*w/float64(max(len(text), 1)))
	fmt.Fprintf(&d.body, `<text class="%s" x="%g" y="%g" style="font-size:%.0fpx" text-anchor="middle">%s</text>`+"\n", class, x+w/2, y+h/2+20, size, html.EscapeString(text))
}

// graph draws lines into a box.
func (d *picture) graph(p panel, lines []line, x, y, w, h float64) {
	stacked := p.FieldConfig.Defaults.Custom.Stacking.Mode == "normal"
	if stacked {
		lines = stack(lines)
	}
	most := 0.0
	for _, l := range lines {
		for _, pt := range l.points {
			most = max(most, pt[1])
		}
	}
	most = nice(most)
	at := func(pt [2]float64) (float64, float64) {
		begin, end := float64(d.from.Unix()), float64(d.to.Unix())
		return x + w*(pt[0]-begin)/(end-begin), y + h*(1-pt[1]/most)
	}
	for i := range 3 {
		v := most * float64(i) / 2
		_, py := at([2]float64{0, v})
		fmt.Fprintf(&d.body, `<path class="grid" d="M%g %.1fh%g"/><text class="soft" x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			x, py, w, x-6, py+4, amount(v, p.FieldConfig.Defaults.Unit))
	}
	for i := len(lines) - 1; i >= 0; i-- { // a stack's highest first, the others over it
		l, path := lines[i], new(strings.Builder)
		for n, pt := range l.points {
			px, py := at(pt)
			fmt.Fprintf(path, "%c%.1f %.1f", "ML"[min(n, 1)], px, py)
		}
		colour := colours[i%len(colours)]
		if l.ceiling {
			fmt.Fprintf(&d.body, `<path class="line" stroke="#a3261b" stroke-dasharray="7 5" d="%s"/>`+"\n", path)
			continue
		}
		if stacked {
			first, _ := at(l.points[0])
			last, _ := at(l.points[len(l.points)-1])
			fmt.Fprintf(&d.body, `<path fill="%s" fill-opacity="0.3" d="%sL%.1f %gL%.1f %gz"/>`+"\n", colour, path, last, y+h, first, y+h)
		}
		fmt.Fprintf(&d.body, `<path class="line" stroke="%s" d="%s"/>`+"\n", colour, path)
	}
	fmt.Fprintf(&d.body, `<text class="soft" x="%g" y="%g">%s</text><text class="soft" x="%g" y="%g" text-anchor="end">%s</text>`+"\n",
		x, y+h+15, d.from.UTC().Format("15:04"), x+w, y+h+15, d.to.UTC().Format("15:04"))
}

// stack adds to each line what is below it at that time.
func stack(lines []line) []line {
	lines = slices.Clone(lines)
	sum := map[float64]float64{}
	for i, l := range lines {
		points := make([][2]float64, len(l.points))
		for n, pt := range l.points {
			sum[pt[0]] += pt[1]
			points[n] = [2]float64{pt[0], sum[pt[0]]}
		}
		lines[i].points = points
	}
	return lines
}

func (d *picture) legend(lines []line, x, y, w float64) {
	left := x
	for i, l := range lines {
		colour := colours[i%len(colours)]
		if l.ceiling {
			colour = "#a3261b"
		}
		wide := 22 + 6.9*float64(len(l.name))
		if left+wide > x+w-20 { // there is room for two rows
			left, y = x, y+13
		}
		fmt.Fprintf(&d.body, `<rect fill="%s" x="%.0f" y="%.0f" width="10" height="4" rx="2"/><text class="soft" x="%.0f" y="%.0f">%s</text>`+"\n",
			colour, left, y-6, left+14, y, html.EscapeString(l.name))
		left += wide
	}
}

func (d *picture) svg(title string) string {
	const style = `text{font:13px system-ui,"DejaVu Sans",sans-serif;fill:#1d2522}.head{font-size:19px;font-weight:600}.row{font-size:15px;font-weight:600;fill:#56615c}.title{font-weight:600}.soft{font-size:11px;fill:#56615c}.card{fill:#fff;stroke:#e2e1da}.grid{stroke:#eceae3}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.stat{font-weight:600;fill:#2f6f5e}.bad{fill:#a3261b}`
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" role="img"><title>The dashboard's panels, drawn from Prometheus</title><style>%s</style><rect width="100%%" height="100%%" fill="#f6f5f1"/><text class="head" x="8" y="32">%s</text>`+"\n%s</svg>\n",
		24*column, d.height+12, style, html.EscapeString(title), d.body.String())
}

// nice is the next round number above x.
func nice(x float64) float64 {
	if x <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if m*p >= x {
			return m * p
		}
	}
	return 10 * p
}

// amount writes x in a unit of Grafana.
func amount(x float64, unit string) string {
	switch unit {
	case "s":
		switch {
		case x >= 2*86400:
			return fmt.Sprintf("%.0f days", x/86400)
		case x >= 120:
			return fmt.Sprintf("%.0f min", x/60)
		case x == 0 || x >= 1:
			return fmt.Sprintf("%.3g s", x)
		case x >= 1e-3:
			return fmt.Sprintf("%.3g ms", x*1e3)
		}
		return fmt.Sprintf("%.3g µs", x*1e6)
	case "bytes", "Bps":
		suffix := ""
		for _, s := range []string{"K", "M", "G"} {
			if x < 1000 {
				break
			}
			x, suffix = x/1000, s
		}
		return fmt.Sprintf("%.3g %sB", x, suffix)
	}
	if x >= 10_000 {
		return fmt.Sprintf("%.4gk", x/1000)
	}
	return fmt.Sprintf("%.4g", x)
}
