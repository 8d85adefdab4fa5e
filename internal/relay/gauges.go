package relay

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// gauges is the registry's state as Prometheus sees it. The registry sets and
// reads them under its lock. Without it a scrape, which reads one after another,
// could show a phone without the binary that it has joined.
type gauges struct {
	binaries, phones, inGrace, remote prometheus.Gauge
	expiries                          prometheus.Counter

	descs [5]*prometheus.Desc
}

// newGauges returns the gauges, all at 0.
func newGauges(newGauge func(prometheus.GaugeOpts) prometheus.Gauge) gauges {
	opts := [...]prometheus.GaugeOpts{
		{Name: "pyrycode_relay_connected_binaries", Help: "Connected binaries. Slots in grace have none."},
		{Name: "pyrycode_relay_connected_phones", Help: "Phones with their socket at this node that have joined a slot, here or at another node, including those that wait in grace."},
		{Name: "pyrycode_relay_binaries_in_grace", Help: "Slots kept for a binary that is gone and may come back."},
		{Name: "pyrycode_relay_remote_phones", Help: "Phones in slots of this node with their socket at another node of the cluster, which counts them as connected."},
		{Name: "pyrycode_relay_grace_expiries_total", Help: "Slots evicted because no binary came back within the grace period."},
	}
	g := gauges{
		binaries: newGauge(opts[0]),
		phones:   newGauge(opts[1]),
		inGrace:  newGauge(opts[2]),
		remote:   newGauge(opts[3]),
		expiries: prometheus.NewCounter(prometheus.CounterOpts(opts[4])),
	}
	for i, o := range opts {
		g.descs[i] = prometheus.NewDesc(o.Name, o.Help, nil, nil)
	}
	return g
}

// set sets the gauges to c.
func (g *gauges) set(c Counts) {
	g.binaries.Set(float64(c.Binaries))
	g.phones.Set(float64(c.Phones))
	g.inGrace.Set(float64(c.InGrace))
	g.remote.Set(float64(c.Remote))
}

// values returns the values of the gauges and of the counter, in the order of
// descs.
func (g *gauges) values() (v [5]float64, err error) {
	for i, m := range [...]prometheus.Metric{g.binaries, g.phones, g.inGrace, g.remote, g.expiries} {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			return v, fmt.Errorf("read %s: %w", g.descs[i], err)
		}
		v[i] = d.GetGauge().GetValue() + d.GetCounter().GetValue() // one of the two is 0
	}
	return v, nil
}

// read returns the values of the gauges as counts.
func (g *gauges) read() (Counts, error) {
	v, err := g.values()
	return Counts{Binaries: int(v[0]), Phones: int(v[1]), InGrace: int(v[2]), Remote: int(v[3])}, err
}

// Describe implements prometheus.Collector.
func (r *Registry[B, P]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range r.gauges.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It sends the values of one moment. It
// holds the lock while it reads them and not while it sends them, so a slow
// scraper does not delay a join.
func (r *Registry[B, P]) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	v, err := r.gauges.values()
	r.mu.Unlock()
	for i, d := range r.gauges.descs {
		if err != nil {
			ch <- prometheus.NewInvalidMetric(d, err)
			continue
		}
		kind := prometheus.GaugeValue
		if i == len(v)-1 {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(d, kind, v[i])
	}
}

// Counts is the number of connections of each kind at one moment.
type Counts struct {
	Binaries int // slots held by a binary; one in grace is not counted
	Phones   int // joined phones with their socket here, including those that wait in grace
	InGrace  int // slots kept for a binary that may come back
	Remote   int // phones in slots here with their socket at another node
}

// Counts returns the numbers of connections now.
func (r *Registry[B, P]) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Peaks is the greatest value that each count has had. The moments may differ.
type Peaks struct {
	Binaries, Phones, InGrace int // as in Counts
	Served                    int // Phones and Remote together
}

// note raises p to the counts of c where they are greater.
func (p *Peaks) note(c Counts) {
	p.Binaries = max(p.Binaries, c.Binaries)
	p.Phones = max(p.Phones, c.Phones)
	p.InGrace = max(p.InGrace, c.InGrace)
	p.Served = max(p.Served, c.Phones+c.Remote)
}

// TakePeaks returns the peaks since its last call, and starts again with the
// counts of now. Only one caller may use it: a second one takes peaks from the
// first.
func (r *Registry[B, P]) TakePeaks() Peaks {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peaks
	r.peaks = Peaks{}
	r.peaks.note(r.counts)
	return p
}

// Check walks over all slots and counts again, under the lock. It returns an
// error that names each count and each gauge that differs, and each slot that is
// not in exactly one of the states held and in grace, or has too many phones.
func (r *Registry[B, P]) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	var none B
	walked := Counts{Phones: len(r.proxied)}
	for id, s := range r.slots {
		walked.Phones += len(s.phones)
		walked.Remote += len(s.remote)
		if s.grace != nil {
			walked.InGrace++
		} else {
			walked.Binaries++
		}
		if (s.grace != nil) == (s.binary != none) {
			errs = append(errs, fmt.Errorf("slot %s: held %t, in grace %t; want one of them",
				wire.Printable(string(id), 64), s.binary != none, s.grace != nil))
		}
		if s.joined() > r.mostPhones {
			errs = append(errs, fmt.Errorf("slot %s: %d phones; want at most %d",
				wire.Printable(string(id), 64), s.joined(), r.mostPhones))
		}
	}
	if walked != r.counts {
		errs = append(errs, fmt.Errorf("counts say %+v; walking finds %+v", r.counts, walked))
	}
	if gauge, err := r.gauges.read(); err != nil {
		errs = append(errs, err)
	} else if gauge != walked {
		errs = append(errs, fmt.Errorf("gauges say %+v; walking finds %+v", gauge, walked))
	}
	return errors.Join(errs...)
}
