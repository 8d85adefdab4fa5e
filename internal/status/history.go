package status

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// SampleEvery is the time between two samples. It is the shortest peak of traffic that shows.
const SampleEvery = 10 * time.Second

const (
	pointEvery = time.Minute
	day        = int(24 * time.Hour / pointEvery)
	hour       = int(time.Hour / pointEvery)
)

// point is one minute: the peaks of connections, and the traffic per second, on average
// and in the busiest ten seconds.
type point struct {
	end                               uint32 // as a Unix time
	binaries, phones, inGrace, served uint32 // served: phones, remote ones included
	frames, bytes                     float32
	mostFrames, mostBytes             float32
}

// raise raises each peak of p to that of q if it is lower. Averages and end stay.
func (p *point) raise(q point) {
	p.binaries, p.phones = max(p.binaries, q.binaries), max(p.phones, q.phones)
	p.inGrace, p.served = max(p.inGrace, q.inGrace), max(p.served, q.served)
	p.mostFrames, p.mostBytes = max(p.mostFrames, q.mostFrames), max(p.mostBytes, q.mostBytes)
}

// history has the samples of the last day.
type history struct {
	metrics prometheus.Gatherer
	peaks   func() relay.Peaks // nil: not known

	mu       sync.Mutex // guards all below
	points   [day]point
	n        int // number of points since the start
	hours    minutes
	current  point   // of the current minute
	began    reading // at the begin of the current minute
	last     reading
	previous reading // the sample before last
}

// observe reads the metrics. It updates the current minute with the connections, and with
// the peaks since its last call. Page loads call it too, so that no number on the page is
// greater than a peak that is shown later.
func (h *history) observe() reading {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.note()
}

// note is observe with h.mu held, so that the minute cannot end between the reading and
// the update.
func (h *history) note() reading {
	now := read(h.metrics)
	phones := now.count("connected_phones")
	h.current.raise(point{binaries: uint32(now.count("connected_binaries")), phones: uint32(phones),
		inGrace: uint32(now.count("binaries_in_grace")), served: uint32(phones + now.count("remote_phones"))})
	if h.peaks != nil {
		p := h.peaks()
		h.current.raise(point{binaries: uint32(p.Binaries), phones: uint32(p.Phones), inGrace: uint32(p.InGrace), served: uint32(p.Served)})
	}
	return now
}

// sample reads the metrics, and ends the current minute if it is over.
func (h *history) sample() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.note()
	if h.last.values == nil { // the first
		h.last, h.began = now, now
		h.hours.put(0, now)
	}
	h.previous, h.last = h.last, now
	c := &h.current
	c.raise(point{mostFrames: traffic(h.previous, now, framesUp, framesDown), mostBytes: traffic(h.previous, now, bytesUp, bytesDown)})
	if now.at.Sub(h.began.at) < pointEvery-SampleEvery/2 {
		return
	}
	c.end = uint32(now.at.Unix())
	c.frames, c.bytes = traffic(h.began, now, framesUp, framesDown), traffic(h.began, now, bytesUp, bytesDown)
	h.points[h.n%day] = *c
	h.n++
	h.hours.put(h.n, now)
	h.current, h.began = point{}, now
}

// traffic returns the increase per second of two counters, one for each direction.
func traffic(before, after reading, up, down string) float32 {
	return float32(flow(up, before, after) + flow(down, before, after))
}

// minutes has the readings at the ends of the last hour's minutes. It stores the names of
// the values once: a reading with names is ten times as large, and an hour of those
// looked like a leak.
type minutes struct {
	names []string       // of the values, in the order in which they first came
	index map[string]int // of a name
	at    [hour + 1]time.Time
	value [hour + 1][]float64
}

// put stores r as the reading of minute n. It replaces the reading of 61 minutes before.
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

// get returns the reading of minute n. Values that did not exist then are 0.
func (m *minutes) get(n int) reading {
	i := n % len(m.at)
	r := reading{at: m.at[i], values: make(map[string]float64, len(m.value[i]))}
	for j, v := range m.value[i] {
		r.values[m.names[j]] = v
	}
	return r
}

// past is a copy of the parts of history that a page needs.
type past struct {
	points []point // oldest first, without the current minute
	runs   point   // the current minute
	ago    reading // an hour ago, or at the start of the process
	before reading // the last sample but one
	last   reading // the last sample
}

// peakOfLastHour returns the peaks of the last 60 minutes and of the current one.
func (p past) peakOfLastHour() point {
	most := p.runs
	for _, m := range p.points[max(0, len(p.points)-hour):] {
		most.raise(m)
	}
	return most
}

func (h *history) past() past {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := past{ago: h.hours.get(max(0, h.n-hour)), before: h.previous, last: h.last, runs: h.current}
	for i := max(0, h.n-day); i < h.n; i++ {
		p.points = append(p.points, h.points[i%day])
	}
	return p
}

const prefix = "pyrycode_relay_"

// reading has the values of the metrics at one time. Their keys are the names without the
// relay's prefix, with the values of labels, such as close_frames_total{1001,relay}.
type reading struct {
	at     time.Time
	values map[string]float64
}

// read gathers the metrics. Metrics with errors are missing, and count as 0.
func read(from prometheus.Gatherer) reading {
	r := reading{at: time.Now(), values: make(map[string]float64)}
	families, _ := from.Gather() // the metrics without errors come with the error
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), prefix)
		for _, m := range f.GetMetric() {
			key := name
			if len(m.GetLabel()) > 0 {
				var values []string
				for _, l := range m.GetLabel() { // sorted by name
					values = append(values, l.GetValue())
				}
				key += "{" + strings.Join(values, ",") + "}"
			}
			r.values[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return r
}

// count returns a gauge or counter as a whole number.
func (r reading) count(name string) int64 { return int64(r.values[name]) }

// flow returns the increase per second of a counter between two readings.
func flow(name string, before, after reading) float64 {
	secs := after.at.Sub(before.at).Seconds()
	if secs <= 0 {
		return 0
	}
	return max(0, (after.values[name]-before.values[name])/secs)
}

// The counters of traffic.
const (
	framesUp   = "frames_forwarded_total{phone_to_binary}"
	framesDown = "frames_forwarded_total{binary_to_phone}"
	bytesUp    = "frame_bytes_total{phone_to_binary}"
	bytesDown  = "frame_bytes_total{binary_to_phone}"
)
