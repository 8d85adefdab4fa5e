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

// What is admitted: of one server-id a wake per period in the long run and so
// many at once; of all so many at a time. An address may have as many on their way as
// there are places left: one address alone has half of the places, and another one
// always finds some.
const (
	wakePeriod  = 10 * time.Second
	wakeBurst   = 6
	maxInFlight = 32
)

// allowancesPerGeneration bounds the memory for the allowances of server-ids
// to some 10 MB, were all their names as long as they may be. Beyond it, and
// only then, some are forgotten that were not full again.
const allowancesPerGeneration = 16 << 10

// Why a wake is not admitted.
var (
	ErrOff       = errors.New("push is off")
	ErrMalformed = errors.New("push_wake is not for platform fcm with a token of 1 to 4096 bytes")
	ErrRate      = errors.New("push wakes of this server-id come too fast")
	ErrInFlight  = errors.New("too many push wakes are on their way")
	ErrShutdown  = errors.New("the relay is shutting down")
)

var refusals = map[error]outcome{ErrOff: off, ErrMalformed: malformed, ErrRate: limited, ErrInFlight: crowded, ErrShutdown: inShutdown}

// admission decides on the spot which wakes may go.
type admission struct {
	wakes sync.WaitGroup // one for each that was admitted

	mu         sync.Mutex // guards all below
	closed     bool
	inFlight   int
	byAddr     network.Counts // inFlight by the address of the binary
	shown      func(float64)  // the gauge: what inFlight is
	young, old map[wire.ServerID]*rate.Limiter
	rotated    time.Time // when young was new
}

// enter admits a wake of id from a binary at from. The caller must call leave at its end.
func (a *admission) enter(from netip.Addr, id wire.ServerID, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ns := network.Of(from)
	switch {
	case a.closed:
		return ErrShutdown
	case a.byAddr.Load(ns) >= maxInFlight-a.inFlight: // first, so that it costs the server-id nothing
		return ErrInFlight
	case !a.allowance(id, now).AllowN(now, 1):
		return ErrRate
	}
	a.inFlight++
	a.byAddr.Add(ns, 1)
	a.shown(float64(a.inFlight))
	a.wakes.Add(1)
	return nil
}

// allowance returns the rate limiter of id. A server-id without requests for as long as its
// limiter needs to fill up has a full one, so its limiter may be forgotten.
func (a *admission) allowance(id wire.ServerID, now time.Time) *rate.Limiter {
	if l := a.young[id]; l != nil {
		return l
	}
	if a.young == nil || len(a.young) >= allowancesPerGeneration || now.Sub(a.rotated) >= wakeBurst*wakePeriod {
		a.old, a.young, a.rotated = a.young, make(map[wire.ServerID]*rate.Limiter), now
	}
	l := a.old[id]
	if l == nil {
		l = rate.NewLimiter(rate.Every(wakePeriod), wakeBurst)
	}
	a.young[id] = l
	return l
}

func (a *admission) leave(from netip.Addr) {
	a.mu.Lock()
	a.inFlight--
	a.byAddr.Add(network.Of(from), -1)
	a.shown(float64(a.inFlight))
	a.mu.Unlock()
	a.wakes.Done()
}

// close admits nothing from now on.
func (a *admission) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
}
