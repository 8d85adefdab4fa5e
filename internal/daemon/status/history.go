package status

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	sampleEvery = 10 * time.Second // so short a peak still shows
	pointEvery  = time.Minute
	day         = int(24 * time.Hour / pointEvery)
	hour        = int(time.Hour / pointEvery)
)

// point is one minute: the most there was of what is connected, and what
// flowed per second.
type point struct {
	binaries, phones, inGrace uint32
	frames, bytes             float32
}

// history is the last day, sampled.
type history struct {
	metrics prometheus.Gatherer

	mu       sync.Mutex // guards all below
	points   [day]point
	n        int // points there have been
	hours    minutes
	current  point   // the minute that runs
	began    reading // at its begin
	last     reading
	previous reading // the sample before last
}

// sample takes in what the metrics say now.
func (h *history) sample() {
	now := read(h.metrics)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.values == nil { // the first
		h.last, h.began = now, now
		h.hours.put(0, now)
	}
	h.previous, h.last = h.last, now
	c := &h.current
	c.binaries = max(c.binaries, uint32(now.count("connected_binaries")))
	c.phones = max(c.phones, uint32(now.count("connected_phones")))
	c.inGrace = max(c.inGrace, uint32(now.count("binaries_in_grace")))
	if now.at.Sub(h.began.at) < pointEvery-sampleEvery/2 {
		return
	}
	c.frames = float32(flow(framesUp, h.began, now) + flow(framesDown, h.began, now))
	c.bytes = float32(flow(bytesUp, h.began, now) + flow(bytesDown, h.began, now))
	h.points[h.n%day] = *c
	h.n++
	h.hours.put(h.n, now)
	h.current, h.began = point{}, now
}

// minutes is the readings at the ends of the last hour's minutes, without the
// names: a reading with them is ten times as big, and an hour of those looked
// like a leak.
type minutes struct {
	names []string       // of the values, in the order in which they first came
	index map[string]int // of a name
	at    [hour + 1]time.Time
	value [hour + 1][]float64
}

// put keeps r as that of minute n, in the place of the one an hour and a
// minute ago.
func (m *minutes) put(n int, r reading) {
	if m.index == nil {
		m.index = make(map[string]int)
	}
	for name := range r.values {
		if _, ok := m.index[name]; !ok {
			m.index[name] = len(m.names)
			m.names = append(m.names, name)
		}
	}
	i := n % len(m.at)
	m.at[i] = r.at
	m.value[i] = slices.Grow(m.value[i][:0], len(m.names))[:len(m.names)]
	for j, name := range m.names {
		m.value[i][j] = r.values[name]
	}
}

// get is the reading of minute n. What there was not yet is 0.
func (m *minutes) get(n int) reading {
	i := n % len(m.at)
	r := reading{at: m.at[i], values: make(map[string]float64, len(m.value[i]))}
	for j, v := range m.value[i] {
		r.values[m.names[j]] = v
	}
	return r
}

// past is what history says of now.
type past struct {
	points []point // oldest first, the minute that runs left out
	ago    reading // an hour ago, or when the process began
	before reading // the two last samples
	last   reading
}

func (h *history) past() past {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := past{ago: h.hours.get(max(0, h.n-hour)), before: h.previous, last: h.last}
	for i := max(0, h.n-day); i < h.n; i++ {
		p.points = append(p.points, h.points[i%day])
	}
	return p
}
