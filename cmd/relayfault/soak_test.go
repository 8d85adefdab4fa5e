package main

import (
	"strings"
	"testing"
)

// soaked returns the report of an hour. grow returns the growth of the values at each sample.
func soaked(grow func(i int) soakSample) *soakReport {
	r := &soakReport{Before: soakSample{Goroutines: 11, FDs: 12}, After: soakSample{Goroutines: 11, FDs: 12}}
	for i := range 360 {
		l := grow(i)
		l.At = float64(10 * i)
		l.RSS += 30 << 20
		l.NextGC += 8 << 20
		l.Goroutines += 250
		l.FDs += 260
		// Noise, as from a load that changes.
		noise := float64(i*7919%13) - 6
		l.RSS += noise * (64 << 10)
		l.Goroutines += noise
		l.FDs += noise
		r.Samples = append(r.Samples, l)
	}
	r.judge()
	return r
}

func TestASoakJudgesWhatGrows(t *testing.T) {
	for _, tt := range []struct {
		name string
		grow func(int) soakSample
		want string // in the verdict; empty: no failure
	}{
		{"nothing grows", func(int) soakSample { return soakSample{} }, ""},
		{"everything grows at the start only", func(i int) soakSample {
			return soakSample{RSS: float64(min(i, 50)) * (1 << 20), FDs: float64(min(i, 50))}
		}, ""},
		{"resident memory grows", func(i int) soakSample { return soakSample{RSS: float64(i) * (16 << 10)} }, "resident memory"},
		{"the heap grows", func(i int) soakSample { return soakSample{NextGC: float64(i) * (16 << 10)} }, "heap goal"},
		{"goroutines leak", func(i int) soakSample { return soakSample{Goroutines: float64(i) / 8} }, "goroutines"},
		{"descriptors leak", func(i int) soakSample { return soakSample{FDs: float64(i) / 8} }, "open files"},
	} {
		got := strings.Join(soaked(tt.grow).Wrong, "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: verdict %q; want one that names %q", tt.name, got, tt.want)
		}
	}
}

func TestASoakJudgesWhatIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*soakReport)
		want string
	}{
		{"goroutines", func(r *soakReport) { r.After.Goroutines += 5 }, "16 goroutines at the end, 11 at the start"},
		{"files", func(r *soakReport) { r.After.FDs += 5 }, "17 open files at the end, 12 at the start"},
		{"unexpected events", func(r *soakReport) { r.UnexpectedCount = 3 }, "3 unexpected events"},
	} {
		r := soaked(func(int) soakSample { return soakSample{} })
		tt.set(r)
		r.Trends, r.Wrong = nil, nil
		r.judge()
		if got := strings.Join(r.Wrong, "; "); !strings.Contains(got, tt.want) {
			t.Errorf("%s: verdict %q; want %q", tt.name, got, tt.want)
		}
	}
}

func TestASoakIsDrawn(t *testing.T) {
	r := soaked(func(int) soakSample { return soakSample{Phones: 100, Binaries: 20} })
	if s := string(r.svg()); !strings.HasPrefix(s, "<svg") || strings.Contains(s, "NaN") || strings.Count(s, "<polyline") != 6 {
		t.Errorf("not the plot: %.200s", s)
	}
	var b strings.Builder
	r.Table(&b)
	if !strings.Contains(b.String(), "verdict: nothing grew") {
		t.Errorf("the table has no verdict:\n%s", b.String())
	}
}
