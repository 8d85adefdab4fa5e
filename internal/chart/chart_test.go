package chart

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

// wellFormed fails the test if svg is not XML or has a coordinate that is not a number.
func wellFormed(t *testing.T, svg []byte) string {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if s := string(svg); strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
		t.Errorf("a place is no number: %s", s)
	}
	return string(svg)
}

func TestLinesAreDrawnToScale(t *testing.T) {
	l := &Lines{Title: "a < b", Height: 100, X: []float64{0, .5, 1}, Dots: true, Panels: []Panel{
		{Title: "linear", Lines: []Line{{"v", Blue, []float64{0, 10, 20}}}},
		{Title: "logarithmic", Log: true, Lines: []Line{{"v", Orange, []float64{10, 100, 1000}}, {"w", Green, []float64{0, 1, 1}}}},
		{Title: "nothing", Lines: []Line{{"v", Blue, []float64{0, 0, 0}}}},
	}}
	s := wellFormed(t, l.SVG())
	for _, want := range []string{
		`points="90.0,160.0 470.0,110.0 850.0,60.0 "`,  // from the bottom of the panel to its top
		`points="90.0,272.7 470.0,239.3 850.0,206.0 "`, // a decade is a third of the panel
		`points="90.0,452.0 470.0,452.0 850.0,452.0 "`,
		"a &lt; b", "● w",
	} {
		if !strings.Contains(s, want) {
			t.Errorf("the diagram lacks %s", want)
		}
	}
	if n := strings.Count(s, "<circle"); n != 12 {
		t.Errorf("%d dots; want 12", n)
	}
}

func TestBarsStandAtTheirTimes(t *testing.T) {
	b := &Bars{Title: "bars", End: 10, Bands: []Bar{{From: 2, To: 4, Name: "band", Colour: "#eee"}}, Rows: []Row{
		{Name: "one", Bars: []Bar{{From: 0, To: 5, Colour: Blue}, {From: 5, To: 20, Colour: Red, Full: true}}},
	}}
	s := wellFormed(t, b.SVG())
	for _, want := range []string{
		`<rect x="80.0" y="122.0" width="620.0" height="10.0" fill="#1f6feb"/>`,
		`<rect x="700.0" y="120.0" width="620.0" height="14.0" fill="#e00000"/>`, // cut at the end
		`<rect x="328.0" y="116.0" width="248.0"`,
		">10 s<", ">band<",
	} {
		if !strings.Contains(s, want) {
			t.Errorf("the diagram lacks %s", want)
		}
	}
	wellFormed(t, (&Bars{}).SVG())
}

func TestNumbersAreShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", .5: "0.5", 9999: "9999", 20_000: "20 k", 1_250_000: "1.25 M"} {
		if got := number(v); got != want {
			t.Errorf("%g is written %q; want %q", v, got, want)
		}
	}
}
