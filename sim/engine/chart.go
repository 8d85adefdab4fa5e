package engine

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"time"
)

// A Chart shows what happened to the users of a world, for readers that do not
// know its code. It has a column for each user, and arrows for the frames that
// they send each other.
type Chart struct {
	Columns    []string
	Arrows     []Arrow
	Marks      []Mark
	Shades     []Shade
	FailedStep int // the step that failed, or 0
	Why        string

	inevitable int // the step that made the failure inevitable, or 0
}

// An Arrow is a frame from one column to another. It was lost if To is never.
type Arrow struct {
	FromColumn, ToColumn int
	From, To             Stamp
	Label                string
}

// A Mark is an event in a column.
type Mark struct {
	Column int
	At     Stamp
	Label  string
	Class  string
}

// A Shade is a state that a column had for some time.
type Shade struct {
	Column   int
	From, To Stamp
	Class    string
}

// charted is a world that can draw its runs.
type charted interface{ Chart() *Chart }

// rows returns the stamps of all events, each once, in order.
func (c *Chart) rows() []Stamp {
	seen := map[int]Stamp{}
	add := func(s ...Stamp) {
		for _, s := range s {
			if s.Step > 0 {
				seen[s.Step] = s
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
	var rows []Stamp
	for _, s := range seen {
		rows = append(rows, s)
	}
	slices.SortFunc(rows, func(a, b Stamp) int { return a.Step - b.Step })
	return rows
}

const (
	chartLeft, chartRow, chartTop  = 80, 13, 16
	maxColumnWidth, minColumnWidth = 110, 56 // widths of a column
	maxPageWidth                   = 1800    // the page should not be wider
	letterWidth                    = 6
)

// HTML draws the chart as one page that needs nothing else. section is HTML that
// follows the header.
func (c *Chart) HTML(title, run, section string) string {
	rows := c.rows()
	bottom := chartTop + len(rows)*chartRow
	y := func(s Stamp) int {
		if s.Step == 0 {
			return bottom
		}
		i, _ := slices.BinarySearchFunc(rows, s.Step, func(r Stamp, step int) int { return r.Step - step })
		return chartTop + i*chartRow
	}
	width := max(minColumnWidth, min(maxColumnWidth, (maxPageWidth-chartLeft)/max(len(c.Columns), 1)))
	x := func(column int) int { return chartLeft + column*width + width/2 }
	right := x(len(c.Columns))
	var b strings.Builder
	verdict := "everything held"
	if c.Why != "" {
		verdict = "broken: " + truncate(firstLine(c.Why), 200) + ` <a href="#broke">where</a>`
	}
	fmt.Fprintf(&b, chartPage, html.EscapeString(title), html.EscapeString(title), verdict, html.EscapeString(run), section)
	fmt.Fprintf(&b, `<svg class="heads" xmlns="http://www.w3.org/2000/svg" width="%d" height="24">`+"\n", right+200)
	for i, l := range c.Columns {
		fmt.Fprintf(&b, `<text class="h" x="%d" y="16">%s</text>`, x(i), html.EscapeString(l))
	}
	fmt.Fprintf(&b, "</svg>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\">\n%s", right+200, bottom+40, chartTip)
	last := int64(-1)
	for _, r := range rows {
		if r.At != last {
			last = r.At
			fmt.Fprintf(&b, `<line class="time" x1="70" y1="%d" x2="%d" y2="%d"/><text class="t" x="4" y="%d">%s</text>`+"\n",
				y(r), right, y(r), y(r)+4, time.Duration(r.At).Round(time.Microsecond))
		}
	}
	for i := range c.Columns {
		fmt.Fprintf(&b, `<line class="column" x1="%d" y1="0" x2="%d" y2="%d"/>`+"\n", x(i), x(i), bottom)
	}
	c.bars(&b, x, y)
	for _, a := range c.Arrows {
		from, to, class, came := x(a.FromColumn), x(a.ToColumn), "arrow", ""
		end := y(a.To)
		if a.To.Step == 0 {
			to, end = from+(to-from)/max(2*abs(a.ToColumn-a.FromColumn), 1), y(a.From)+chartRow/2
			class, came = "lost", ", never arrived"
		}
		fmt.Fprintf(&b, `<line class="%s" x1="%d" y1="%d" x2="%d" y2="%d"><title>%s%s</title></line>`+"\n",
			class, from, y(a.From), to, end, html.EscapeString(a.Label), came)
	}
	for _, m := range c.Marks {
		fmt.Fprintf(&b, `<g class="%s"><circle cx="%d" cy="%d" r="3.5"/><text x="%d" y="%d">%s</text><title>%s</title></g>`+"\n",
			m.Class, x(m.Column), y(m.At), x(m.Column)+6, y(m.At)+4, truncate(m.Label, max(2*width/letterWidth, 16)), html.EscapeString(m.Label))
	}
	if i := c.inevitable; i > 0 {
		at := y(Stamp{0, i}) - chartRow/2
		fmt.Fprintf(&b, `<line class="bad" style="stroke-dasharray:4 3" x1="0" y1="%d" x2="%d" y2="%d"/><text class="bad" x="%d" y="%d">step %d: inevitable from here on</text>`+"\n", at, right, at, right+8, at+4, i)
	}
	if c.Why != "" {
		at := y(Stamp{0, c.FailedStep})
		fmt.Fprintf(&b, `<line class="bad" id="broke" x1="0" y1="%d" x2="%d" y2="%d"/><text class="bad" x="8" y="%d">step %d: %s</text>`+"\n",
			at, right, at, at+14, c.FailedStep, truncate(firstLine(c.Why), 200))
	}
	b.WriteString("</svg></html>\n")
	return b.String()
}

// bars draws the shades.
func (c *Chart) bars(b *strings.Builder, x func(int) int, y func(Stamp) int) {
	for k, s := range c.Shades {
		width, shift := 14, 0
		if strings.HasPrefix(s.Class, "conn") { // overlapping connections of one column are drawn next to each other
			width = 4
			for _, o := range c.Shades[:k] {
				if o.Column == s.Column && strings.HasPrefix(o.Class, "conn") && (o.To.Step == 0 || o.To.Step > s.From.Step) {
					shift = (shift + 5) % 25
				}
			}
		}
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d"/>`+"\n", s.Class, x(s.Column)-width/2-shift, y(s.From), width, max(y(s.To)-y(s.From), 3))
	}
}

// truncate returns at most n characters of s, escaped for HTML.
func truncate(s string, n int) string {
	if r := []rune(s); len(r) > n {
		s = string(r[:n-1]) + "…"
	}
	return html.EscapeString(s)
}

func abs(n int) int { return max(n, -n) }

const chartTip = `<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>
`

const chartPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>relaysim %s</title>
<style>
:root{--back:#fff;--text:#222;--faint:#888;--line:#ddd;--time:#f0f0f0;--conn:#9aa;--frame:#3a6fc4;--lost:#d90;--dial:#393;--close:#555;--fault:#c60;--notice:#849;--bad:#d11;--stall:#f3d48a;--grace:#bfe3c8}
@media(prefers-color-scheme:dark){:root{--back:#181818;--text:#ddd;--faint:#888;--line:#3a3a3a;--time:#252525;--conn:#788;--frame:#79a6ee;--dial:#6c6;--close:#bbb;--fault:#f93;--notice:#c9d;--bad:#f55;--stall:#7a6020;--grace:#2c5a3a}}
body{font:13px/1.5 system-ui,sans-serif;margin:0;background:var(--back);color:var(--text);width:max-content;min-width:100%%}
header{position:sticky;left:0;box-sizing:border-box;width:100vw;max-width:1200px;padding:16px 24px 4px}
h1{font-size:16px;margin:0 0 4px}h1 span{font-weight:normal}p{margin:8px 0}
pre{margin:0;font:12px/1.5 ui-monospace,monospace}
ul{list-style:none;display:flex;flex-wrap:wrap;gap:2px 20px;margin:8px 0;padding:0}li svg{vertical-align:-2px;margin-right:5px}
svg{display:block}li svg{display:inline}.heads{position:sticky;top:0;background:var(--back);border-bottom:1px solid var(--line)}
svg text{font:10px ui-monospace,monospace;fill:var(--text);paint-order:stroke;stroke:var(--back);stroke-width:3px}
svg .h{font-weight:bold;font-size:12px;text-anchor:middle}svg .t{fill:var(--faint)}
.column{stroke:var(--line);stroke-dasharray:2 4}.time{stroke:var(--time)}.conn{fill:var(--conn)}.blamed{fill:var(--bad)}
.stall{fill:var(--stall);opacity:.8}.grace{fill:var(--grace);opacity:.8}
.arrow{stroke:var(--frame);opacity:.6;marker-end:url(#tip)}.arrow:hover{opacity:1;stroke-width:3}marker path{fill:var(--frame)}
.lost{stroke:var(--lost);stroke-dasharray:3 2;stroke-width:1.5}
.dial *{fill:var(--dial)}.close circle{fill:var(--close)}.fault *{fill:var(--fault)}.notice *{fill:var(--notice)}
line.bad{stroke:var(--bad);stroke-width:2}svg text.bad{fill:var(--bad);font-weight:bold}
</style>
<header><h1>%s: <span>%s</span></h1>
<p>Each column is a participant: phones on the left, the relay in the middle, binaries on the right. Time goes down, with a row for each moment at which an event happened. Rest the pointer on a line or a dot to see its full text.</p>
<ul>
<li><svg width="12" height="12"><rect class="conn" x="4" width="4" height="12"/></svg>a connection</li>
<li><svg width="12" height="12" class="dial"><circle cx="6" cy="6" r="3.5"/></svg>it begins: p1#2 s1 is the second connection of p1, for server-id s1</li>
<li><svg width="12" height="12" class="close"><circle cx="6" cy="6" r="3.5"/></svg>it ends, with the code that the peer was told</li>
<li><svg width="30" height="12"><line class="arrow" x1="0" y1="6" x2="30" y2="6"/></svg>a frame, from its sender to its receiver</li>
<li><svg width="20" height="12"><line class="lost" x1="0" y1="6" x2="20" y2="6"/></svg>a frame that never arrived</li>
<li><svg width="12" height="12" class="fault"><circle cx="6" cy="6" r="3.5"/></svg>a fault, or what an operator did</li>
<li><svg width="12" height="12" class="notice"><circle cx="6" cy="6" r="3.5"/></svg>a binary is told that a phone is gone</li>
<li><svg width="14" height="12"><rect class="stall" width="14" height="12"/></svg>does not read</li>
<li><svg width="14" height="12"><rect class="grace" width="14" height="12"/></svg>the relay keeps a slot for a binary that is gone; a cluster's node may serve a server-id</li>
<li><svg width="30" height="12"><line class="bad" x1="0" y1="6" x2="30" y2="6"/></svg>the step that failed; the connection that the failure is about is red</li>
</ul>
<p>At the end all faults are over, and p-heal and b-heal connect: every connection must be served, and finally closed.</p>
<details><summary>The run, as <code>relaysim replay</code> takes it</summary><pre>%s</pre></details></header>
%s`
