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

	noToken        decision = "no_token"
	unknownToken   decision = "unknown_token"
	boundElsewhere decision = "bound_elsewhere"
	tooManyIDs     decision = "too_many_ids"

	denied      decision = "denied"      // by the verifier
	unavailable decision = "unavailable" // the verifier cannot be asked
	unverified  decision = "unverified"  // the verifier cannot be asked, and --access-url-fail is open
	stopping    decision = "stopping"    // the relay ends
)

// ok reports whether d allows the upgrade.
func (d decision) ok() bool { return d == allowed || d == unverified }

// answers has the answer to a peer for each refusal.
var answers = map[decision]relay.AccessRefusal{
	notListed: {Status: http.StatusForbidden, Text: "header x-pyrycode-server: this relay serves listed server-ids only, and this one is not on its list; ask its operator for access"},
	expired:   {Status: http.StatusForbidden, Text: "header x-pyrycode-server: the access of this server-id has ended; ask the relay's operator to extend it"},
	tooMany:   {Status: http.StatusTooManyRequests, Text: "too many connection attempts for this server-id"},

	noToken:        {Status: http.StatusUnauthorized, Text: "path: this relay needs a token in it, wss://HOST/t/TOKEN; its operator issues them"},
	unknownToken:   {Status: http.StatusUnauthorized, Text: "path: its token is not one of this relay, or has been revoked; ask its operator for a new one"},
	boundElsewhere: {Status: http.StatusForbidden, Text: "header x-pyrycode-server: another token has claimed this server-id before"},
	tooManyIDs:     {Status: http.StatusForbidden, Text: "path: its token has claimed as many server-ids as it may"},

	denied:      {Status: http.StatusForbidden, Text: "this relay's operator does not allow this server-id"},
	unavailable: {Status: http.StatusServiceUnavailable, Wait: retryWait, Text: "it is not known now whether this server-id has access; try again"},
	stopping:    {Status: http.StatusServiceUnavailable, Wait: retryWait, Text: "the relay is shutting down"},
}

// refusal returns the answer to a peer that is refused because of d. e is the entry, if
// there is one, and why is the verifier's reason, if it has given one.
func (d decision) refusal(e Entry, why string) error {
	answer := answers[d]
	if why != "" {
		answer.Text += ": " + why
	}
	if d == expired && e.Name != "" {
		answer.Status, answer.Text = http.StatusUnauthorized, "path: the access of its token has ended; ask the relay's operator to extend it"
	}
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
	m := make(map[decision]prometheus.Counter)
	for _, d := range []decision{allowed, unverified} {
		m[d] = v.WithLabelValues(string(d))
	}
	for d := range answers {
		m[d] = v.WithLabelValues(string(d))
	}
	return v, m
}

// Metrics returns the metrics of the policy.
func (p *Policy) Metrics() []prometheus.Collector { return []prometheus.Collector{p.all} }
