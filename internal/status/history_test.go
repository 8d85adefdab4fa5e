package status

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// The last hour's readings come back as they were, names that came late
// included, and keeping another costs no memory.
func TestTheLastHourIsKeptWithoutItsNames(t *testing.T) {
	at := func(n int) reading {
		r := reading{at: time.Unix(int64(60*n), 0), values: make(map[string]float64)}
		for i := range 200 {
			r.values[fmt.Sprintf("counter%d", i)] = float64(n * i)
		}
		if n > 100 {
			r.values["late"] = float64(n)
		}
		return r
	}
	var m minutes
	const last = 130
	for n := range last + 1 {
		m.put(n, at(n))
	}
	for n := last - hour; n <= last; n++ {
		got, want := m.get(n), at(n)
		if n <= 100 {
			delete(got.values, "late")
		}
		if !got.at.Equal(want.at) || !maps.Equal(got.values, want.values) {
			t.Fatalf("minute %d: %v; want %v", n, got, want)
		}
	}
	n, r := last, at(last)
	if allocs := testing.AllocsPerRun(2*hour, func() { n++; m.put(n, r) }); allocs >= 1 {
		t.Errorf("%v allocations for each minute; want none once the hour is full", allocs)
	}
}
