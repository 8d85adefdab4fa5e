package access

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Policy is the relay.Access of a process. It is a collector of its metrics, too. All
// methods may be called from any goroutine, except Attach.
type Policy struct {
	clock     clock.Clock
	decisions map[decision]prometheus.Counter
	all       *prometheus.CounterVec
	changed   func() // set by Attach

	book atomic.Pointer[Book] // in force

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

// Attach implements relay.Access.
func (p *Policy) Attach(changed func()) { p.changed = changed }

// Use puts b into force. Before it returns, every connection of a server-id that has lost
// its access has been closed.
func (p *Policy) Use(b *Book) {
	p.book.Store(b)
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

// maxSleep is the longest time between two looks at the clock, while an entry has an
// expiry. A clock that is set forward delays an expiry by so much at most.
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

// Ask implements relay.Access. It does not wait.
func (p *Policy) Ask(q relay.AccessQuestion) (relay.Terms, error) {
	s := SubjectOf(q.Server)
	e, d := p.find(s)
	if d == allowed && !p.pass(s, e) {
		d = tooMany
	}
	if q.Phone && d != tooMany {
		return relay.Terms{}, nil // without a binary it does not get in
	}
	p.decisions[d].Inc()
	if d != allowed {
		return relay.Terms{}, d.refusal(e)
	}
	return relay.Terms{MaxPhones: e.Phones}, nil
}

// Allowed implements relay.Access.
func (p *Policy) Allowed(id wire.ServerID) bool {
	_, d := p.find(SubjectOf(id))
	return d == allowed
}

// find returns the entry of s and whether it grants access now.
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
	if l == nil {
		l = rate.NewLimiter(limitOf(e.Rate), e.Rate)
		p.limiters[s] = l
	}
	return l.AllowN(p.clock.Now(), 1)
}

// limitOf returns the limit of so many attempts per minute.
func limitOf(perMinute int) rate.Limit { return rate.Limit(perMinute) / 60 }

// waitOf returns the seconds between two attempts at the rate of e.
func waitOf(e Entry) int { return int(math.Ceil(60 / float64(max(e.Rate, 1)))) }

// Len returns the number of entries in force.
func (p *Policy) Len() int { return p.book.Load().Len() }
