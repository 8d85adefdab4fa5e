// Package chart draws the SVG diagrams of the load tools: panels of lines over a common x
// axis (Lines), and rows of coloured bars over time (Bars).
//
// It does not draw the diagrams of the simulator's pages and of the status page. Those are
// interactive parts of HTML pages with other axes.
package chart

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// Colours of lines and bars.
const (
	Blue   = "#1f6feb"
	Orange = "#d9730d"
	Green  = "#2e8540"
	Yellow = "#d9a50d"
	Red    = "#e00000"
)

// canvas is an SVG that is being written.
type canvas struct{ bytes.Buffer }

// newCanvas begins an SVG with a white background and a title.
func newCanvas(width, height, font, left int, title string, titleFont int) *canvas {
	c := new(canvas)
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d">`+"\n", width, height, font)
	fmt.Fprintln(c, `<rect width="100%" height="100%" fill="white"/>`)
	c.text(float64(left), 25, fmt.Sprintf(`font-size="%d"`, titleFont), title)
	return c
}

// text writes a text at a point. attributes are further XML attributes.
func (c *canvas) text(x, y float64, attributes, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, html.EscapeString(text))
}

// rect writes a filled rectangle.
func (c *canvas) rect(x, y, width, height float64, colour string) {
	fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, colour)
}

// end completes the SVG.
func (c *canvas) end() []byte {
	c.WriteString("</svg>\n")
	return c.Bytes()
}

// Lines is a diagram of panels, one above the other, that share the x axis.
type Lines struct {
	Title  string
	Note   string    // a line below the panels
	Height int       // of each panel
	X      []float64 // of each point, from 0 to 1
	XTitle string
	XMarks []Mark
	Panels []Panel
	Dots   bool // mark each point
}

// Mark is a label of the x axis.
type Mark struct {
	At   float64 // from 0 to 1
	Text string
}

// Panel is one panel of lines.
type Panel struct {
	Title string
	Log   bool // the y axis is logarithmic and begins and ends at a power of ten
	Lines []Line
}

// Line is one line. Y has one value for each X of the diagram.
type Line struct {
	Name, Colour string
	Y            []float64
}

// SVG draws the diagram. It must have at least one point.
func (l *Lines) SVG() []byte {
	const width, left, top = 760, 90, 60
	gap := 46
	if l.XTitle != "" {
		gap = 70
	}
	bottom := top + len(l.Panels)*(l.Height+gap)
	c := newCanvas(left+width+60, bottom+10, 13, left, l.Title, 17)
	c.text(left, float64(bottom-8), `fill="#555"`, l.Note)
	for i, p := range l.Panels {
		l.panel(c, p, left, float64(top+i*(l.Height+gap)), width, float64(l.Height))
	}
	return c.end()
}

// panel draws a panel with its upper left corner at the given point.
func (l *Lines) panel(c *canvas, p Panel, left, top, width, height float64) {
	scale, grid := p.axis()
	y := func(v float64) float64 { return top + height*(1-scale(v)) }
	c.text(left, top-10, `font-weight="bold"`, p.Title)
	for _, v := range grid {
		fmt.Fprintf(c, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#ddd"/>`+"\n", left, y(v), left+width, y(v))
		c.text(left-8, y(v)+4, `text-anchor="end"`, number(v))
	}
	for _, m := range l.XMarks {
		c.text(left+m.At*width, top+height+18, `text-anchor="middle" fill="#555"`, m.Text)
	}
	c.text(left+width/2, top+height+36, `text-anchor="middle" fill="#555"`, l.XTitle)
	for i, line := range p.Lines {
		fmt.Fprintf(c, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, line.Colour)
		for k, v := range line.Y {
			fmt.Fprintf(c, "%.1f,%.1f ", left+l.X[k]*width, y(v))
		}
		c.WriteString(`"/>` + "\n")
		for k, v := range line.Y {
			if l.Dots {
				fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, left+l.X[k]*width, y(v), line.Colour)
			}
		}
		if len(p.Lines) > 1 {
			c.text(left+width-95*float64(i+1), top-10, fmt.Sprintf(`fill="%s"`, line.Colour), "● "+line.Name)
		}
	}
}

// axis returns a function that maps a value to its height from 0 to 1, and the values of
// the grid lines.
func (p *Panel) axis() (scale func(float64) float64, grid []float64) {
	low, high := math.Inf(1), 0.0
	for _, line := range p.Lines {
		for _, v := range line.Y {
			low, high = min(low, v), max(high, v)
		}
	}
	if p.Log {
		low = math.Pow(10, math.Floor(math.Log10(max(low, 1))))
		high = math.Pow(10, math.Ceil(math.Log10(max(high, low*10))))
		for v := low; v <= high*1.001; v *= 10 {
			grid = append(grid, v)
		}
		return func(v float64) float64 { return math.Log10(max(v, low)/low) / math.Log10(high/low) }, grid
	}
	if high == 0 {
		high = 1
	}
	unit := nice(high / 4)
	high = math.Ceil(high/unit) * unit
	for v := 0.0; v <= high*1.001; v += unit {
		grid = append(grid, v)
	}
	return func(v float64) float64 { return v / high }, grid
}

// nice rounds v up to 1, 2 or 5 times a power of ten.
func nice(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*p {
			return m * p
		}
	}
	return 10 * p
}

// number formats v with at most four digits, in thousands (k) or millions (M) if it is
// large.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + " k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// Bars is a diagram of rows over time. All times are in seconds, from 0 to End.
type Bars struct {
	Title  string
	End    float64
	Legend []Line // names and colours only
	Bands  []Bar  // behind all rows, with their names above
	Rows   []Row
}

// Row is a named row of bars. Later bars cover earlier ones.
type Row struct {
	Name string
	Bars []Bar
}

// Bar is a period of time in a row. A bar with Full set is as high as its row.
type Bar struct {
	From, To     float64
	Name, Colour string
	Full         bool
}

// SVG draws the diagram.
func (b *Bars) SVG() []byte {
	const left, width, top, row, gap = 80, 1240, 120, 14, 90
	height := float64(top + len(b.Rows)*row)
	x := func(t float64) float64 { return left + min(max(t, 0), b.End)/max(b.End, 1e-9)*width }
	c := newCanvas(left+width+20, int(height)+40, 11, left, b.Title, 16)
	for i, l := range b.Legend {
		at := float64(left + i*gap)
		c.rect(at, 36, 12, 10, l.Colour)
		c.text(at+16, 45, "", l.Name)
	}
	for _, band := range b.Bands {
		c.rect(x(band.From), top-4, max(1, x(band.To)-x(band.From)), height-top+8, band.Colour)
		fmt.Fprintf(c, `<text transform="translate(%.1f %d) rotate(-40)">%s</text>`+"\n", x(band.From)+4, top-8, html.EscapeString(band.Name))
	}
	for i, r := range b.Rows {
		y := float64(top + i*row)
		c.text(left-6, y+10, `text-anchor="end"`, r.Name)
		for _, bar := range r.Bars {
			from, to := x(bar.From), x(bar.To)
			if bar.Full {
				c.rect(from, y, max(3, to-from), row, bar.Colour)
			} else {
				c.rect(from, y+2, max(.6, to-from), row-4, bar.Colour)
			}
		}
	}
	for k := range 7 {
		at := float64(k) / 6
		c.text(left+at*width, height+22, `text-anchor="middle" fill="#555"`, fmt.Sprintf("%.0f s", b.End*at))
	}
	return c.end()
}
