package push

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Limits on admitted wakes. An address may have as many wakes in flight as there are
// free places. One address alone therefore gets at most half of the places, and
// another address always finds a free one.
const (
	wakePeriod  = 10 * time.Second // between two wakes of one server-id, in the long run
	wakeBurst   = 6                // wakes of one server-id in one burst
	maxInFlight = 32               // wakes of all server-ids in flight
)

// maxLimiters is the maximum number of rate limiters in each of the two generations.
// With the longest server-ids they use about 10 MB. If more server-ids send wakes,
// the oldest limiters are deleted although they are not full.
const maxLimiters = 16 << 10

// Errors of [Sender.Wake]: the reason why it does not admit a wake.
var (
	ErrOff       = errors.New("push is off")
	ErrMalformed = errors.New("push_wake must have the platform fcm and a token of 1 to 4096 bytes")
	ErrRate      = errors.New("this server-id sends too many push wakes")
	ErrInFlight  = errors.New("too many push wakes are in flight")
	ErrShutdown  = errors.New("the relay is shutting down")
)

// refusals has the outcome that each error counts as.
var refusals = map[error]outcome{ErrOff: off, ErrMalformed: malformed, ErrRate: limited, ErrInFlight: tooManyInFlight, ErrShutdown: inShutdown}

// admission limits the rate of wakes and the number in flight.
type admission struct {
	wakes sync.WaitGroup // one for each admitted wake

	mu         sync.Mutex // guards all below
	closed     bool
	inFlight   int
	byAddr     network.Counts                  // inFlight by the address of the binary
	gauge      func(float64)                   // sets the gauge of inFlight
	young, old map[wire.ServerID]*rate.Limiter // two generations of limiters
	rotated    time.Time                       // when young was created
}

// enter admits a wake of id from a binary at address from, or returns the reason not
// to. It never blocks. The caller must call leave when an admitted wake has ended.
func (a *admission) enter(from netip.Addr, id wire.ServerID, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ns := network.Of(from)
	switch {
	case a.closed:
		return ErrShutdown
	case a.byAddr.Load(ns) >= maxInFlight-a.inFlight: // before the limiter, so that it does not count against the server-id
		return ErrInFlight
	case !a.limiter(id, now).AllowN(now, 1):
		return ErrRate
	}
	a.inFlight++
	a.byAddr.Add(ns, 1)
	a.gauge(float64(a.inFlight))
	a.wakes.Add(1)
	return nil
}

// limiter returns the rate limiter of id. After wakeBurst*wakePeriod without a request
// a limiter is full, like a new one. A generation that is that old can therefore be
// deleted without a loss. The caller holds a.mu.
func (a *admission) limiter(id wire.ServerID, now time.Time) *rate.Limiter {
	if l := a.young[id]; l != nil {
		return l
	}
	if a.young == nil || len(a.young) >= maxLimiters || now.Sub(a.rotated) >= wakeBurst*wakePeriod {
		a.old, a.young, a.rotated = a.young, make(map[wire.ServerID]*rate.Limiter), now
	}
	l := a.old[id]
	if l == nil {
		l = rate.NewLimiter(rate.Every(wakePeriod), wakeBurst)
	}
	a.young[id] = l
	return l
}

// leave removes a wake that enter has admitted.
func (a *admission) leave(from netip.Addr) {
	a.mu.Lock()
	a.inFlight--
	a.byAddr.Add(network.Of(from), -1)
	a.gauge(float64(a.inFlight))
	a.mu.Unlock()
	a.wakes.Done()
}

// close makes enter refuse all further wakes.
func (a *admission) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
}
