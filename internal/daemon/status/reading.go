package status

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const prefix = "pyrycode_relay_"

// reading is what the metrics said at one moment: by name, and by label
// values where there are labels, such as close_frames_total{1001,relay}.
// The relay's prefix is cut off.
type reading struct {
	at     time.Time
	values map[string]float64
}

// read gathers. What could not be gathered is missing, and so 0.
func read(from prometheus.Gatherer) reading {
	r := reading{at: time.Now(), values: make(map[string]float64)}
	families, _ := from.Gather() // what there is comes with the error
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

// count is a gauge or counter as a whole number.
func (r reading) count(name string) int64 { return int64(r.values[name]) }

// flow is how often a counter counted between two readings, per second.
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
