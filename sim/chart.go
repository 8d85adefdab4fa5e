package sim

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"time"
)

// A Chart is what happened to those who use a world, for people who do not
// know its code: a lane for each, arrows for what they send each other.
type Chart struct {
	Lanes  []string
	Arrows []Arrow
	Marks  []Mark
	Shades []Shade
	Bad    int // the step that failed, or 0
	Why    string
}

// An Arrow is something on its way from one lane to another; it has been
// lost if To never came.
type Arrow struct {
	Lane, At int
	From, To stamp
	Label    string
}

// A Mark is something that happened in a lane.
type Mark struct {
	Lane  int
	At    stamp
	Label string
	Class string
}

// A Shade is a state that lasted.
type Shade struct {
	Lane     int
	From, To stamp
	Class    string
}

// charted is a world that can draw its runs.
type charted interface{ Chart() *Chart }

// rows are the stamps at which something happened, each once, in order.
func (c *Chart) rows() []stamp {
	seen := map[int]stamp{}
	add := func(s ...stamp) {
		for _, s := range s {
			if s.step > 0 {
				seen[s.step] = s
			}
		}
	}
	for _, a := range c.Arrows {
		add(a.From, a.To)
	}
	for _, m := range c.Marks {
		add(m.At)
	}
	for _, s := range c.Shades {
		add(s.From, s.To)
	}
	var rows []stamp
	for _, s := range seen {
		rows = append(rows, s)
	}
	slices.SortFunc(rows, func(a, b stamp) int { return a.step - b.step })
	return rows
}

const (
	chartLeft, chartWidth, chartRow, chartTop = 80, 110, 13, 60
	chartHeads                                = 60 // rows after which the lanes are named again
)

// HTML draws the chart as one page that needs nothing else.
func (c *Chart) HTML(title, run string) string {
	rows := c.rows()
	y := func(s stamp) int {
		if s.step == 0 {
			return chartTop + len(rows)*chartRow
		}
		i, _ := slices.BinarySearchFunc(rows, s.step, func(r stamp, step int) int { return r.step - step })
		return chartTop + i*chartRow
	}
	x := func(lane int) int { return chartLeft + lane*chartWidth + chartWidth/2 }
	var b strings.Builder
	head := "everything held"
	if c.Why != "" {
		head = c.Why
	}
	fmt.Fprintf(&b, chartPage, html.EscapeString(title), html.EscapeString(title), html.EscapeString(firstLine(head)), html.EscapeString(run),
		chartLeft+len(c.Lanes)*chartWidth+240, y(stamp{})+60)
	last := int64(-1)
	for _, r := range rows {
		if r.at != last {
			last = r.at
			fmt.Fprintf(&b, `<line class="time" x1="70" y1="%d" x2="%d" y2="%d"/><text class="t" x="4" y="%d">%s</text>`+"\n",
				y(r), x(len(c.Lanes)), y(r), y(r)+4, time.Duration(r.at).Round(time.Microsecond))
		}
	}
	for i, l := range c.Lanes {
		fmt.Fprintf(&b, `<text class="h" x="%d" y="30">%s</text><line class="lane" x1="%d" y1="40" x2="%d" y2="%d"/>`+"\n",
			x(i)-12, html.EscapeString(l), x(i), x(i), y(stamp{}))
		for row := chartHeads; row < len(rows)-5; row += chartHeads {
			fmt.Fprintf(&b, `<text class="h n" x="%d" y="%d">%s</text>`+"\n", x(i)-12, chartTop+row*chartRow-4, html.EscapeString(l))
		}
	}
	for k, s := range c.Shades {
		wide, aside := 14, 0
		if strings.HasPrefix(s.Class, "conn") { // those of one lane that overlap stand beside each other
			wide = 4
			for _, o := range c.Shades[:k] {
				if o.Lane == s.Lane && strings.HasPrefix(o.Class, "conn") && (o.To.step == 0 || o.To.step > s.From.step) {
					aside = (aside + 5) % 25
				}
			}
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d"/>`+"\n", s.Class, x(s.Lane)-wide/2-aside, y(s.From), wide, max(y(s.To)-y(s.From), 3))
	}
	for _, a := range c.Arrows {
		if a.To.step == 0 {
			fmt.Fprintf(&b, `<line class="lost" x1="%d" y1="%d" x2="%d" y2="%d"><title>%s, never came</title></line>`+"\n",
				x(a.Lane), y(a.From), x(a.Lane)+(x(a.At)-x(a.Lane))/max(2*abs(a.At-a.Lane), 1), y(a.From)+chartRow/2, html.EscapeString(a.Label))
			continue
		}
		fmt.Fprintf(&b, `<line class="arrow" marker-end="url(#tip)" x1="%d" y1="%d" x2="%d" y2="%d"><title>%s</title></line>`+"\n",
			x(a.Lane), y(a.From), x(a.At), y(a.To), html.EscapeString(a.Label))
	}
	for _, m := range c.Marks {
		fmt.Fprintf(&b, `<g class="%s"><circle cx="%d" cy="%d" r="3.5"/><text x="%d" y="%d">%s</text></g>`+"\n",
			m.Class, x(m.Lane), y(m.At), x(m.Lane)+6, y(m.At)+4, html.EscapeString(m.Label))
	}
	if c.Why != "" {
		at := y(stamp{0, c.Bad})
		fmt.Fprintf(&b, `<line class="bad" x1="0" y1="%d" x2="%d" y2="%d"/><text class="bad" x="8" y="%d">step %d: %s</text>`+"\n",
			at, x(len(c.Lanes)), at, at+14, c.Bad, html.EscapeString(firstLine(c.Why)))
	}
	b.WriteString("</svg></main></html>\n")
	return b.String()
}

func abs(n int) int { return max(n, -n) }

const chartPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>relaysim %s</title>
<style>
body{font:13px/1.4 system-ui,sans-serif;margin:0;background:#fff;color:#222}
header{padding:16px 24px;border-bottom:1px solid #ddd}h1{font-size:16px;margin:0 0 8px}
pre{margin:0;font:12px/1.5 ui-monospace,monospace}main{overflow:auto;padding:8px 16px}
svg text{font:10px ui-monospace,monospace;fill:#333;paint-order:stroke;stroke:#fff;stroke-width:3px}svg .h{font-weight:bold;font-size:12px}svg .n{fill:#888}svg .t{fill:#888}
.lane{stroke:#ccc;stroke-dasharray:2 4}.conn{fill:#9aa}.dial circle{fill:#393}.dial text{fill:#393}.time{stroke:#f0f0f0}.arrow{stroke:#3a6fc4;opacity:.75}.lost{stroke:#d90;stroke-dasharray:3 2;stroke-width:1.5}
circle{fill:#3a6fc4}.close circle{fill:#555}.fault circle{fill:#d70}.fault text{fill:#a50}.notice circle{fill:#849}.notice text{fill:#739}.blamed{fill:#d11}
.stall{fill:#f3d48a;opacity:.8}.grace{fill:#bfe3c8;opacity:.8}
line.bad{stroke:#d11;stroke-width:2}text.bad{fill:#d11!important;font-weight:bold}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ccc;stroke:#181818}.time{stroke:#252525}header{border-color:#333}}
</style>
<header><h1>%s: %s</h1><details><summary>the run</summary><pre>%s</pre></details>
<p>A lane is a peer: phones on the left, the relay, binaries on the right; a grey bar is a connection, from a green dot that names it and its server-id on (p1#2 is the second that p1 made). Time goes down; a row is a moment at which something happened, with what the peer was told.
A blue arrow is a frame, from where it was sent to where it came; a dashed stub one that never came. Yellow: does not read. Green: a slot waits in grace; in the lane of a cluster's node: it may serve a server-id. Red: where it broke, and whom it broke for. What p-heal and b-heal do comes after all faults: everyone must be served, and at last closed.</p></header>
<main><svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d">
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#3a6fc4"/></marker></defs>
`
