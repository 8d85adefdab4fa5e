package status

import (
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
	hours    [hour + 1]reading
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
		h.hours[0] = now
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
	h.hours[h.n%len(h.hours)] = now
	h.current, h.began = point{}, now
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
	p := past{ago: h.hours[max(0, h.n-hour)%len(h.hours)], before: h.previous, last: h.last}
	for i := max(0, h.n-day); i < h.n; i++ {
		p.points = append(p.points, h.points[i%day])
	}
	return p
}
