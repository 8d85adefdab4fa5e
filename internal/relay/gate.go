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
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// retryAfter is the Retry-After of a relay that is full or draining, in seconds. Clients add a
// backoff of their own.
const retryAfter = 5

// bucketsPerGeneration bounds the memory of the rate limit. If there are more networks, the
// oldest ones are forgotten and get a full allowance.
const bucketsPerGeneration = 32 << 10

// gate limits the upgrades of each address, and of the networks that contain it.
type gate struct {
	mu         sync.Locker // guards all below
	limit      rate.Limit
	burst      int
	young, old map[netip.Prefix]*allowance
	rotated    time.Time // when young was new
}

// allowance has the attempts that one network may still make.
type allowance struct {
	attempts *rate.Limiter
	misses   *rate.Limiter // free attempts, because they found no binary; nil: none yet
}

func newGate(cfg Config) gate {
	g := gate{mu: cfg.Runtime.NewLock("gate"), young: make(map[netip.Prefix]*allowance)}
	g.limit, g.burst = rateOf(cfg)
	return g
}

func rateOf(cfg Config) (rate.Limit, int) { return rate.Limit(cfg.Rate), cfg.Burst }

// set changes the limits of all addresses.
func (g *gate) set(cfg Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit, g.burst = rateOf(cfg)
}

// pass takes an attempt from the allowance of each network of a. If one of them has none left,
// pass takes nothing and returns the time until it has one.
func (g *gate) pass(a netip.Addr, now time.Time) (ok bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ns := network.Of(a)
	// The widest first: an attempt that it refuses creates no allowance of a narrower one.
	// One customer can have very many of those.
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

// missed gives back to a the attempt that has just found no binary. After a restart, phones
// come before their binaries. If many clients share an address, the early ones would use up
// the attempts of the others. As many misses are free as attempts are allowed, so a client
// that guesses server-ids can guess at twice the rate at most.
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

// allowance returns the allowance of network i of ns. A network without an attempt for the time
// in which an allowance fills up has a full one, and can be forgotten. The memory is therefore
// bounded, however many addresses come and go. The lock is held.
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

// fill returns the time in which an empty allowance becomes full.
func (g *gate) fill() time.Duration {
	return time.Duration(min(float64(g.burst)/float64(g.limit), 1e9) * float64(time.Second))
}

// attempt is one upgrade request on its way through the gates. It ends with one call of upgrade
// that succeeds, or with one answer that refuses it.
type attempt struct {
	relay    *Relay
	w        http.ResponseWriter
	req      *http.Request
	endpoint endpoint
	server   wire.ServerID // empty if the headers have no valid one
	from     netip.Addr    // the address that is charged
	placed   bool          // it holds a place in the connection table
}

// rejection is the reason why an attempt is refused before its upgrade.
type rejection struct {
	outcome outcome // how the attempt is counted
	status  int     // of the answer
	wait    int     // seconds that the client is told to wait; 0: it is not told
	err     error   // its text is the body of the answer
}

var (
	errRate   = errors.New("too many connection attempts from this address")
	errOrigin = errors.New("header origin: not on the list of allowed origins")
)

// unavailable returns the rejection of an attempt that may succeed later.
func unavailable(o outcome, err error) *rejection {
	return &rejection{o, http.StatusServiceUnavailable, retryAfter, err}
}

func (r *Relay) newAttempt(w http.ResponseWriter, req *http.Request, e endpoint) *attempt {
	return &attempt{relay: r, w: w, req: req, endpoint: e, from: network.Charged(r.cfg.ClientAddr(req))}
}

// admit takes the attempt through the gates in the order of the contract:
// rate, bans, connection limits, headers, origin. server is the server-id in the
// headers, and helloErr their error. If ok, the attempt holds a place in the connection table, and the
// caller must call upgrade or reject. Otherwise the request has been answered.
func (a *attempt) admit(server wire.ServerID, helloErr error) (ok bool) {
	why := a.checkRate()
	if why == nil {
		why = a.relay.barred(a.from, server)
	}
	if why == nil {
		why = a.takePlace()
	}
	if why == nil {
		why = a.checkHeaders(helloErr)
	}
	if why != nil {
		a.reject(why)
	}
	return why == nil
}

func (a *attempt) checkRate() *rejection {
	pass, wait := a.relay.gate.pass(a.from, a.relay.rt.Clock.Now())
	if pass {
		return nil
	}
	return &rejection{outcomeRate, http.StatusTooManyRequests, max(int(math.Ceil(wait.Seconds())), 1), errRate}
}

func (a *attempt) takePlace() *rejection {
	err := a.relay.cfg.Room()
	if err == nil {
		err = a.relay.table.take(a.from)
	}
	switch {
	case err == nil:
		a.placed = true
		return nil
	case errors.Is(err, errDraining):
		return unavailable(outcomeDraining, err)
	}
	return unavailable(outcomeCapacity, err)
}

func (a *attempt) checkHeaders(helloErr error) *rejection {
	if helloErr != nil {
		return &rejection{outcomeHeaders, http.StatusBadRequest, 0, helloErr}
	}
	if !a.relay.originAllowed(a.req) {
		return &rejection{outcomeOrigin, http.StatusForbidden, 0, errOrigin}
	}
	return nil
}

// reject answers, counts and logs a refused attempt, and gives back its place in the connection
// table.
func (a *attempt) reject(why *rejection) {
	r := a.relay
	refuse(a.w, why.status, why.wait, why.err.Error())
	r.metrics.upgrade(a.endpoint, why.outcome)
	switch why.outcome {
	case outcomeRate:
		r.metrics.refused[refusedRate].Inc()
		r.log.refused("rate_limited", a.from, a.endpoint, nil)
	case outcomeCapacity:
		r.log.refused("conn_cap_reached", a.from, a.endpoint, why.err)
	case outcomeKey:
		r.metrics.refused[refusedKey].Inc()
		r.log.accessRefused(a, why.err)
	case outcomeAccess:
		r.metrics.refused[refusedAccess].Inc()
		r.log.accessRefused(a, why.err)
	case outcomeAccessUnknown:
		r.log.accessRefused(a, why.err)
	}
	a.leave()
}

// upgrade answers the attempt with the WebSocket handshake. If ok, the place
// in the connection table belongs to the caller's connection. Otherwise the
// request has been answered, and counted.
func (a *attempt) upgrade() (sock Socket, ok bool) {
	sock, err := a.relay.cfg.Upgrade(a.w, a.req)
	if err != nil {
		a.relay.metrics.upgrade(a.endpoint, outcomeHandshake)
		a.leave()
		return nil, false
	}
	return sock, true
}

func (a *attempt) leave() {
	if a.placed {
		a.relay.table.leave(a.from, false)
	}
}

// originAllowed reports whether req may come from a browser. Browsers cannot set the headers
// that the endpoints require, so a page that tries is refused by them, too.
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

// peerAddr returns the address that a request came from.
func peerAddr(req *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{} // not IP: all such share one allowance
	}
	return ap.Addr()
}
