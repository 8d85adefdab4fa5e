package access

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// decision is the result of a question. It is a label value.
type decision string

const (
	allowed   decision = "allowed"
	notListed decision = "not_listed"
	expired   decision = "expired"
	tooMany   decision = "rate"
)

// answers has the answer to a peer for each refusal.
var answers = map[decision]relay.AccessRefusal{
	notListed: {Status: http.StatusForbidden, Text: "header x-pyrycode-server: this relay serves listed server-ids only, and this one is not on its list; ask its operator for access"},
	expired:   {Status: http.StatusForbidden, Text: "header x-pyrycode-server: the access of this server-id has ended; ask the relay's operator to extend it"},
	tooMany:   {Status: http.StatusTooManyRequests, Text: "too many connection attempts for this server-id"},
}

// refusal returns the answer to a peer that is refused because of d. e is the entry, if
// there is one.
func (d decision) refusal(e Entry) error {
	answer := answers[d]
	if d == tooMany {
		answer.Wait = waitOf(e)
	}
	return &answer
}

// newDecisions returns the counter of decisions, with every series at 0.
func newDecisions() (*prometheus.CounterVec, map[decision]prometheus.Counter) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pyrycode_relay_access_decisions_total",
		Help: "Decisions of --access about claims of binaries, by result. Phones are counted only if they are refused.",
	}, []string{"decision"})
	m := map[decision]prometheus.Counter{allowed: v.WithLabelValues(string(allowed))}
	for d := range answers {
		m[d] = v.WithLabelValues(string(d))
	}
	return v, m
}

// Describe implements prometheus.Collector.
func (p *Policy) Describe(ch chan<- *prometheus.Desc) { p.all.Describe(ch) }

// Collect implements prometheus.Collector.
func (p *Policy) Collect(ch chan<- prometheus.Metric) { p.all.Collect(ch) }
