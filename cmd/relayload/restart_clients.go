package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// restartClients are clients that reconnect after a restart as the deployed
// clients do: binaries, each with one phone or with none.
type restartClients struct {
	to     *load.Target
	fleet  *load.Fleet // of the phones
	pairs  int
	alone  bool          // binaries without phones
	young  bool          // their connections are younger than backoffReset at each restart
	redial time.Duration // the first step of their backoff
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards all below
	row      *restartRow
	signal   time.Time // time of the current restart's SIGTERM; zero before the first
	binaries []*restartClient
	phones   []*restartClient
	attempts []time.Duration // dials since signal, of binaries and phones
	last     error           // the last failure to connect
}

// restartClient is one client. The mutex of restartClients guards its fields.
type restartClient struct {
	daemon bool
	up     time.Time // when it connected; zero: not connected
	down   time.Time // when the restart ended its connection
}

// start connects all clients and keeps them connected until ctx ends.
func (p *restartClients) start(ctx context.Context) {
	for i := range p.pairs {
		server := fmt.Sprintf("restart-%d-%d", os.Getpid(), i)
		b := &restartClient{daemon: true}
		p.binaries = append(p.binaries, b)
		held := make(chan struct{})
		hold := sync.OnceFunc(func() { close(held) })
		p.tasks.Go(func() {
			p.keep(ctx, b, func() error { return p.binary(ctx, b, server, hold) })
		})
		if p.alone {
			continue
		}
		ph := new(restartClient)
		p.phones = append(p.phones, ph)
		p.tasks.Go(func() {
			select {
			case <-held:
				p.keep(ctx, ph, func() error { return p.phone(ctx, ph, server, i) })
			case <-ctx.Done():
			}
		})
	}
}

// keep keeps r connected until ctx ends.
func (p *restartClients) keep(ctx context.Context, r *restartClient, connect func() error) {
	b := backoff{first: p.redial, daemon: r.daemon}
	b.keep(ctx, func() ending {
		p.attempt(r)
		err := connect()
		if ctx.Err() != nil {
			return ending{}
		}
		e, restarted := p.ended(r, err)
		if restarted && p.young {
			b.step = len(backoffSteps) - 1
		}
		return e
	})
}

// binary runs one connection of an echoing binary, from the dial to its end.
func (p *restartClients) binary(ctx context.Context, r *restartClient, server string, held func()) error {
	b, err := p.to.Binary(server)
	if err != nil {
		return err
	}
	defer closeWith(ctx, b)()
	p.connected(r)
	held()
	return b.Echo()
}

// phone runs one connection of a phone, from the dial to its end. The phone
// counts as connected after its first round trip.
func (p *restartClients) phone(ctx context.Context, r *restartClient, server string, n int) error {
	c, err := p.to.Dial("/v1/client", server)
	if err != nil {
		return err
	}
	defer closeWith(ctx, c)()
	ph := p.fleet.NewPhone(c, n)
	if err := ph.RoundTrip(); err != nil {
		return err
	}
	p.connected(r)
	for err == nil {
		_, err = ph.Next()
	}
	return err
}

// closeWith closes c when ctx ends, or when the returned function is called.
func closeWith(ctx context.Context, c io.Closer) (now func()) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return func() {
		stop()
		c.Close()
	}
}

// attempt records a dial of r.
func (p *restartClients) attempt(r *restartClient) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signal.IsZero() {
		return
	}
	p.attempts = append(p.attempts, time.Since(p.signal))
	if r.daemon {
		p.row.Redials++
	}
}

// connected records that r is connected.
func (p *restartClients) connected(r *restartClient) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.up = time.Now()
}

// ended records the end of r's connection or of its attempt. It returns the
// ending for r's backoff, and whether a restart ended the connection. In that
// case the connection's age is the one that the run asks for.
func (p *restartClients) ended(r *restartClient, err error) (e ending, restarted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	_, closed := errors.AsType[*wstest.CloseError](err)
	up := r.up
	r.up = time.Time{}
	e.closed = closed
	if !up.IsZero() {
		e.lasted = now.Sub(up)
	}
	if up.IsZero() {
		p.last = err
	}
	row := p.row
	switch {
	case p.signal.IsZero():
	case !up.IsZero() && up.Before(p.signal): // the connection that the restart ends
		r.down, restarted = now, true
		if e.lasted = 0; !p.young {
			e.lasted = backoffReset
		}
		if closed {
			row.Closed[err.Error()]++
		} else {
			row.Closed["without a close frame"]++
		}
	case r.daemon && closed && !wstest.IsClose(err, 4409):
		row.Closed["redialled, then "+err.Error()]++ // costs no step
	case r.daemon:
		row.Lost[lostBecause(err, !up.IsZero())]++
	case wstest.IsClose(err, 4404):
		row.Early++
	case closed:
		row.Closed["redialled, then "+err.Error()]++
	default:
		row.PhonesLost[lostBecause(err, !up.IsZero())]++
	}
	return e, restarted
}

// Causes of failed redials.
const (
	lostRefused  = "refused"
	lostAccepted = "accepted, then lost before an answer"
	lostUpgraded = "accepted, then lost after the upgrade"
	lostNoAnswer = "no answer"
	lostBusy     = "HTTP 503"
)

// lostBecause returns the cause of a failed attempt. upgraded reports whether
// the relay had answered 101.
func lostBecause(err error, upgraded bool) string {
	refused, ok := errors.AsType[*wstest.RefusedError](err)
	switch {
	case ok && refused.Status == http.StatusServiceUnavailable:
		return lostBusy
	case ok:
		return "HTTP " + strconv.Itoa(refused.Status)
	case wstest.IsClose(err, 4409):
		return "4409"
	case upgraded:
		return lostUpgraded
	case errors.Is(err, syscall.ECONNREFUSED):
		return lostRefused
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return lostNoAnswer
	}
	return lostAccepted // reset or closed after the process or its kernel had accepted it
}

// begin marks the start of a restart. The caller sends the signal immediately
// after it.
func (p *restartClients) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signal = time.Now()
	p.attempts = nil
}

func (p *restartClients) since() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.signal)
}

// connectedCount returns the number of connected clients.
func (p *restartClients) connectedCount() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range slices.Concat(p.binaries, p.phones) {
		if !r.up.IsZero() {
			n++
		}
	}
	return n
}

// until waits until all clients are connected to relay. It returns an error
// after most.
func (p *restartClients) until(d *driver, relay *load.Child, most time.Duration) error {
	for end := time.Now().Add(most); ; load.Wait(d.Ctx, 10*time.Millisecond) {
		n, all := p.connectedCount(), len(p.binaries)+len(p.phones)
		if n == all {
			// A client that has not noticed the end of its old connection
			// still counts as connected here, but not at the relay.
			binaries, phones, err := counts(relay)
			if err != nil {
				return relay.Failed(err)
			}
			if binaries == len(p.binaries) && phones == len(p.phones) {
				return nil
			}
		}
		switch {
		case d.Ctx.Err() != nil:
			return load.ErrInterrupted
		case time.Now().After(end):
			p.mu.Lock()
			defer p.mu.Unlock()
			return relay.Failed(fmt.Errorf("only %d of %d clients are connected after %s; the last failure: %v", n, all, most, p.last))
		}
		d.Progress.Show("%s: %d of %d clients are connected", p.row.name(), n, all)
	}
}

// record adds the clients' times since the signal to the row. All clients must
// be connected.
func (p *restartClients) record() {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.attempts)
	p.row.Busiest = max(p.row.Busiest, maxInWindow(p.attempts, 100*time.Millisecond))
	for _, r := range p.binaries {
		p.row.binaries = append(p.row.binaries, r.up.Sub(p.signal))
	}
	for _, r := range p.phones {
		p.row.phones = append(p.row.phones, r.up.Sub(p.signal))
		p.row.without = append(p.row.without, r.up.Sub(r.down))
	}
}

// backoffSteps are the waits of a deployed client after consecutive failures, in
// multiples of the first wait (1 s). The last step repeats.
var backoffSteps = [...]int{1, 2, 4, 8, 16, 30}

const (
	// backoffJitter is the maximum deviation of a wait from its step.
	backoffJitter = 0.2
	// backoffReset is the minimum age of a connection that resets, at its end, the
	// backoff to the first step.
	backoffReset = time.Minute
	// instantRedial is the wait of a deployed daemon after a close frame.
	instantRedial = time.Millisecond
	// upgradeTimeout bounds the wait for the answer to an upgrade. Deployed
	// daemons wait for 40 s and more.
	upgradeTimeout = 45 * time.Second
)

// ending describes the end of a connection or of an attempt.
type ending struct {
	lasted time.Duration // the age of the connection; 0 if the attempt failed
	closed bool          // the relay sent a close frame
}

// backoff determines a client's wait before its next dial. It ignores
// Retry-After, as the deployed clients do.
type backoff struct {
	first  time.Duration // the first step: 1 s in deployed clients
	daemon bool          // redials immediately after a close frame; phones never do
	step   int           // the index into backoffSteps of the next wait
}

// after returns the wait after e. A close frame does not cost a daemon a step.
// After a connection younger than backoffReset the client continues at its
// previous step.
func (b *backoff) after(e ending) time.Duration {
	if e.lasted >= backoffReset {
		b.step = 0
	}
	if b.daemon && e.closed {
		return instantRedial
	}
	wait := b.first * time.Duration(backoffSteps[b.step])
	b.step = min(b.step+1, len(backoffSteps)-1)
	return time.Duration(float64(wait) * (1 - backoffJitter + 2*backoffJitter*rand.Float64()))
}

// keep calls connect, waits, and calls it again, until ctx ends. connect returns
// when its connection has ended.
func (b *backoff) keep(ctx context.Context, connect func() ending) {
	for ctx.Err() == nil {
		e := connect()
		load.Wait(ctx, b.after(e))
	}
}
