package relay

import (
	"errors"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/network"
)

// retryAfter is what a client is told to wait when the relay is full or
// draining, in seconds. Clients add a backoff of their own.
const retryAfter = 5

// bucketsPerGeneration bounds the memory of the rate limit. With more
// networks than that the oldest are forgotten and start afresh.
const bucketsPerGeneration = 32 << 10

// gate bounds the upgrades of each address, and of the networks that it is in.
type gate struct {
	mu         sync.Locker // guards all below
	limit      rate.Limit
	burst      int
	young, old map[netip.Prefix]*allowance
	rotated    time.Time // when young was new
}

// allowance is what one network may still do.
type allowance struct {
	attempts *rate.Limiter
	misses   *rate.Limiter // attempts that cost nothing, since they found no binary; nil: none yet
}

func newGate(cfg Config) gate {
	g := gate{mu: cfg.Runtime.NewLock("gate"), young: make(map[netip.Prefix]*allowance)}
	g.limit, g.burst = rateOf(cfg)
	return g
}

func rateOf(cfg Config) (rate.Limit, int) { return rate.Limit(cfg.Rate), cfg.Burst }

// set changes what each address may ask for.
func (g *gate) set(cfg Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit, g.burst = rateOf(cfg)
}

// pass takes an attempt from the allowance of each of a's networks, or takes none
// and returns how long until there is one.
func (g *gate) pass(a netip.Addr, now time.Time) (ok bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ns := network.Of(a)
	// The widest first: what it refuses leaves no trace of the narrower ones, of
	// which one customer can have very many.
	for i := ns.Len() - 1; i >= 0; i-- {
		l := g.allowance(ns, i, now).attempts
		if l.AllowN(now, 1) {
			continue
		}
		for wider := i + 1; wider < ns.Len(); wider++ {
			g.allowance(ns, wider, now).attempts.AllowN(now, -1)
		}
		missing := 1 - l.TokensAt(now)
		return false, time.Duration(missing / float64(l.Limit()) * float64(time.Second))
	}
	return true, 0
}

// missed gives a back the attempt that has just found no binary: after a
// restart phones come before their binaries do, and where many share an
// address the early ones would use up what the others need. Only as many
// misses are free as attempts are allowed, so whoever guesses server-ids gets
// to guess at twice the rate at most.
func (g *gate) missed(a netip.Addr, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ns := network.Of(a)
	for i := range ns.Len() {
		l := g.allowance(ns, i, now)
		if l.misses == nil {
			l.misses = rate.NewLimiter(l.attempts.Limit(), l.attempts.Burst())
		}
		if l.misses.AllowN(now, 1) {
			l.attempts.AllowN(now, -1) // the limiter keeps it below the burst
		}
	}
}

// allowance returns that of network i of ns. A network that has not asked for as
// long as an allowance takes to fill up has a full one, and may be forgotten:
// addresses that come and go leave nothing behind. The lock is held.
func (g *gate) allowance(ns network.Networks, i int, now time.Time) *allowance {
	a, share := ns.At(i)
	limit, burst := g.limit*rate.Limit(share), g.burst*share
	l := g.young[a]
	if l == nil {
		if l = g.old[a]; l == nil {
			l = &allowance{attempts: rate.NewLimiter(limit, burst)}
		}
		if len(g.young) >= bucketsPerGeneration || now.Sub(g.rotated) >= g.fill() {
			g.old, g.young, g.rotated = g.young, make(map[netip.Prefix]*allowance), now
		}
		g.young[a] = l
	}
	for _, r := range []*rate.Limiter{l.attempts, l.misses} {
		if r != nil && (r.Limit() != limit || r.Burst() != burst) { // of before they changed
			r.SetLimitAt(now, limit)
			r.SetBurstAt(now, burst)
		}
	}
	return l
}

// fill is how long an empty allowance takes to be full.
func (g *gate) fill() time.Duration {
	return time.Duration(min(float64(g.burst)/float64(g.limit), 1e9) * float64(time.Second))
}

// admit takes an upgrade request through the gates, outermost first, and
// upgrades it. helloErr is what was wrong with its headers; crowded, if not
// nil, says why it would be closed as soon as it is upgraded. If ok, a place
// in the connection table is taken; otherwise the request has been answered and
// counted. last is asked before the upgrade: by its error the server-id has
// all the claimants it may have, or a cluster cannot tell who holds it.
func (r *Relay) admit(w http.ResponseWriter, req *http.Request, d endpoint, helloErr error, last func() error) (sock Socket, from netip.Addr, ok bool) {
	from = network.Charged(r.cfg.ClientAddr(req))
	if pass, wait := r.gate.pass(from, r.rt.Clock.Now()); !pass {
		secs := int(math.Ceil(wait.Seconds()))
		refuse(w, http.StatusTooManyRequests, max(secs, 1), "too many connection attempts from this address")
		r.metrics.upgrade(d, outcomeRate)
		r.metrics.refused[refusedRate].Inc()
		r.log.refused("rate_limited", from, d, nil)
		return nil, from, false
	}
	err := r.cfg.Room()
	if err == nil {
		err = r.table.take(from)
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, retryAfter, err.Error())
		if errors.Is(err, errDraining) {
			r.metrics.upgrade(d, outcomeDraining)
			return nil, from, false
		}
		r.metrics.upgrade(d, outcomeCapacity)
		r.log.refused("conn_cap_reached", from, d, err)
		return nil, from, false
	}
	defer func() {
		if !ok {
			r.table.leave(from, false)
		}
	}()
	if helloErr != nil {
		refuse(w, http.StatusBadRequest, 0, helloErr.Error())
		r.metrics.upgrade(d, outcomeHeaders)
		return nil, from, false
	}
	if !r.originAllowed(req) {
		refuse(w, http.StatusForbidden, 0, "header origin: not on the list of allowed origins")
		r.metrics.upgrade(d, outcomeOrigin)
		return nil, from, false
	}
	if err := last(); err != nil {
		refuse(w, http.StatusServiceUnavailable, retryAfter, err.Error())
		if errors.Is(err, errCrowded) {
			r.metrics.upgrade(d, outcomeCapacity)
			r.log.refused("conn_cap_reached", from, d, err)
		} else {
			r.metrics.upgrade(d, outcomeCluster)
		}
		return nil, from, false
	}
	sock, err = r.cfg.Upgrade(w, req)
	if err != nil {
		r.metrics.upgrade(d, outcomeHandshake)
		return nil, from, false
	}
	return sock, from, true
}

// originAllowed reports whether a browser may have sent req. Browsers cannot
// set the headers the endpoints ask for, but a page could still try.
func (r *Relay) originAllowed(req *http.Request) bool {
	origins := req.Header.Values("Origin")
	for _, o := range origins {
		if !slices.ContainsFunc(r.settings.Load().AllowedOrigins, func(a string) bool { return strings.EqualFold(a, o) }) {
			return false
		}
	}
	return true
}

// refuse answers a request that is not upgraded.
func refuse(w http.ResponseWriter, status, retryAfter int, sentence string) {
	if retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	http.Error(w, sentence, status)
}

// peerAddr is the address that a request came from.
func peerAddr(req *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{} // not IP: all such share one allowance
	}
	return ap.Addr()
}
