package access

import (
	"cmp"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Policy is the relay.Access of a process. All methods may be called from any goroutine,
// except Attach.
type Policy struct {
	clock     clock.Clock
	decisions map[decision]prometheus.Counter
	all       *prometheus.CounterVec
	changed   func() // set by Attach

	book     atomic.Pointer[Book] // in force
	bindings *Bindings            // of tokens; nil: the policy is none of tokens
	verifier *Verifier            // nil: the policy asks no service

	mu       sync.Locker               // guards all below
	limiters map[Subject]*rate.Limiter // of entries with a rate that have been used
	timer    *clock.Timer              // fires at the next expiry; nil: none
}

// NewList returns a policy that allows the server-ids in a book. It allows none before the
// first call of Use. rt has the clock and the locks.
func NewList(rt relay.Runtime) *Policy {
	rt = rt.WithDefaults()
	p := &Policy{clock: rt.Clock, changed: func() {}, mu: rt.NewLock("access"), limiters: make(map[Subject]*rate.Limiter)}
	p.all, p.decisions = newDecisions()
	p.book.Store(new(Book))
	return p
}

// NewTokens returns a policy that allows the binaries with a token in a book. A server-id
// stays bound to the first token that claimed it, for as long as the book has that token.
func NewTokens(rt relay.Runtime) *Policy {
	p := NewList(rt)
	p.bindings = newBindings(rt.WithDefaults().NewLock("access bindings"))
	return p
}

// NewURL returns a policy that asks a verifier.
func NewURL(rt relay.Runtime, v *Verifier) *Policy {
	p := NewList(rt)
	p.verifier = v
	return p
}

// Bindings returns the bindings of a policy of tokens, or nil.
func (p *Policy) Bindings() *Bindings { return p.bindings }

// Attach implements relay.Access.
func (p *Policy) Attach(changed func()) { p.changed = changed }

// Use puts b into force. Before it returns, every connection of a server-id that has lost
// its access has been closed.
func (p *Policy) Use(b *Book) {
	p.book.Store(b)
	if p.bindings != nil {
		p.bindings.keep(b.entries)
	}
	p.mu.Lock()
	for s, l := range p.limiters {
		if e := b.entries[s]; l.Limit() != limitOf(e.Rate) {
			delete(p.limiters, s)
		}
	}
	p.armExpiry()
	p.mu.Unlock()
	p.changed()
}

// maxSleep is the longest time between two readings of the clock while an entry has an
// expiry. If the clock is set forward, an expiry is late by at most maxSleep.
const maxSleep = time.Minute

// armExpiry sets the timer for the next expiry of the book in force. p.mu is held.
func (p *Policy) armExpiry() {
	if p.timer != nil {
		p.timer.Stop() // a function that has begun does no harm
		p.timer = nil
	}
	now := p.clock.Now()
	if end, ok := p.book.Load().nextEnd(now); ok {
		p.timer = p.clock.AfterFunc(min(end.Sub(now), maxSleep), p.expire)
	}
}

// expire is the function of the timer.
func (p *Policy) expire() {
	p.mu.Lock()
	p.armExpiry()
	p.mu.Unlock()
	p.changed()
}

// Ask implements relay.Access. With a verifier it waits for the answer, for at most the
// timeout of the verifier.
func (p *Policy) Ask(q relay.AccessQuestion) (relay.Terms, error) {
	s, e, why, d := p.decide(q)
	if d.ok() && !p.pass(s, e) {
		d = tooMany
	}
	if d.ok() && !q.Phone && p.bindings != nil {
		d = p.bindings.check(SubjectOf(q.Server), s, p.maxIDs)
	}
	if !q.Phone || !d.ok() {
		p.decisions[d].Inc()
	}
	if !d.ok() {
		return relay.Terms{}, d.refusal(e, why)
	}
	terms := relay.Terms{MaxPhones: e.Phones}
	if !q.Phone && p.bindings != nil {
		terms.Grant = string(s[:])
	}
	return terms, nil
}

// decide returns the decision about q, and the entry and its subject that have decided. A
// list and tokens allow every phone: without a binary that has access it does not get in.
func (p *Policy) decide(q relay.AccessQuestion) (s Subject, e Entry, why string, d decision) {
	switch {
	case p.verifier != nil:
		e, why, d = p.verifier.decide(q)
		return SubjectOf(q.Server), e, why, d
	case p.bindings != nil:
		s, e, d = p.decideToken(q)
	default:
		s = SubjectOf(q.Server)
		e, d = p.find(s)
	}
	if q.Phone {
		d = allowed
	}
	return s, e, "", d
}

// decideToken is decide for tokens.
func (p *Policy) decideToken(q relay.AccessQuestion) (Subject, Entry, decision) {
	id := SubjectOf(q.Server)
	if q.Phone {
		s, _ := p.bindings.of(id)
		e, d := p.find(s)
		return s, e, d
	}
	if q.Token == "" {
		return Subject{}, Entry{}, noToken
	}
	s := SubjectOf(q.Token)
	e, d := p.find(s)
	if d == notListed {
		d = unknownToken
	}
	return s, e, d
}

// maxIDs returns the number of server-ids that a token may claim, and 0 if the book in
// force does not have it. An expired token keeps its server-ids.
func (p *Policy) maxIDs(token Subject) int {
	e, d := p.find(token)
	if d == notListed {
		return 0
	}
	return cmp.Or(e.MaxIDs, DefaultMaxIDs)
}

// Claimed implements relay.Access. It binds id to the token in grant, if the policy is one
// of tokens and Allowed would return true.
func (p *Policy) Claimed(id wire.ServerID, grant string) bool {
	if p.bindings != nil {
		s, token := SubjectOf(id), subjectIn(grant)
		if _, d := p.find(token); !d.ok() || !p.bindings.bind(s, token, p.maxIDs).ok() {
			return false
		}
	}
	return p.Allowed(id, grant) // a change of the book since then has closed nothing yet
}

// Allowed implements relay.Access. With a verifier it allows every server-id: the
// verifier is asked before an upgrade only.
func (p *Policy) Allowed(id wire.ServerID, grant string) bool {
	s := SubjectOf(id)
	switch {
	case p.verifier != nil:
		return true
	case p.bindings != nil:
		token := subjectIn(grant)
		if !p.bindings.check(s, token, p.maxIDs).ok() {
			return false
		}
		s = token
	}
	_, d := p.find(s)
	return d.ok()
}

// subjectIn returns the token in the grant of terms that Ask has returned.
func subjectIn(grant string) (token Subject) {
	copy(token[:], grant)
	return token
}

// find returns the entry of s and whether it grants access now. The time that it takes
// depends on s, which is a hash, and tells nothing about the token behind it.
func (p *Policy) find(s Subject) (Entry, decision) {
	e, ok := p.book.Load().entries[s]
	switch {
	case !ok:
		return e, notListed
	case e.expired(p.clock.Now()):
		return e, expired
	}
	return e, allowed
}

// pass takes an attempt from the rate of e, which is the entry of s. It reports false if
// the rate does not allow it.
func (p *Policy) pass(s Subject, e Entry) bool {
	if e.Rate == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.limiters[s]
	if l == nil || l.Limit() != limitOf(e.Rate) {
		if len(p.limiters) >= maxLimiters {
			clear(p.limiters) // only a verifier can have so many
		}
		l = rate.NewLimiter(limitOf(e.Rate), e.Rate)
		p.limiters[s] = l
	}
	return l.AllowN(p.clock.Now(), 1)
}

// maxLimiters bounds the limiters. A book can have more entries with a rate only if it is
// very large.
const maxLimiters = 256 << 10

// limitOf returns the limit of so many attempts per minute.
func limitOf(perMinute int) rate.Limit { return rate.Limit(perMinute) / 60 }

// Len returns the number of entries in force.
func (p *Policy) Len() int { return p.book.Load().Len() }

// decision is the result of a question. It is a label value.
type decision string

const (
	allowed   decision = "allowed"
	notListed decision = "not_listed"
	expired   decision = "expired"
	tooMany   decision = "rate"

	noToken      decision = "no_token"
	unknownToken decision = "unknown_token"
	boundToOther decision = "bound_elsewhere"
	tooManyIDs   decision = "too_many_ids"

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

	noToken:      {Status: http.StatusUnauthorized, Text: "path: this relay needs a token in it, wss://HOST/t/TOKEN; its operator issues them"},
	unknownToken: {Status: http.StatusUnauthorized, Text: "path: its token is not one of this relay, or has been revoked; ask its operator for a new one"},
	boundToOther: {Status: http.StatusForbidden, Text: "header x-pyrycode-server: another token has claimed this server-id before"},
	tooManyIDs:   {Status: http.StatusForbidden, Text: "path: its token has claimed as many server-ids as it may"},

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
		answer.Wait = int(math.Ceil(60 / float64(max(e.Rate, 1)))) // the time between two attempts
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
