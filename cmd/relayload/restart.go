package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type restartCommand struct {
	Relay  string        `default:"bin/pyrycode-relay" help:"The relay's program, which is started, ended and started anew."`
	Pairs  int           `default:"1000" help:"Binaries, each with one phone."`
	Spread time.Duration `default:"10s" help:"The --drain-spread of the rows that have one."`
	Redial time.Duration `default:"1s" help:"How long a peer waits before it dials again; twice as long each time that it fails, ± 20 %, at most 30s."`
	JSON   bool          `name:"json" help:"Print JSON, not a table."`
}

// restartReport is what pairs went through, a row for each way to restart.
type restartReport struct {
	Pairs  int           `json:"pairs"`
	Redial float64       `json:"redial_seconds"`
	Rows   []*restartRow `json:"rows"`
}

// restartRow is one restart. All times are seconds, from the signal if
// nothing else is said. A pair is back when its phone has had a round trip.
type restartRow struct {
	Kept     bool           `json:"socket_kept"` // by who starts the relay, as systemd keeps it
	Spread   float64        `json:"drain_spread"`
	Ended    float64        `json:"ended"`
	Ready    float64        `json:"ready_again"`
	Half     float64        `json:"half_back"`
	All      float64        `json:"all_back"`
	Without  float64        `json:"pair_without_median"` // from its phone's close on
	Longest  float64        `json:"pair_without_longest"`
	Busiest  int            `json:"most_attempts_in_100ms"`
	Refused  int            `json:"connections_refused"`
	Answered int            `json:"answered_503"`
	Early    int            `json:"phones_before_their_binary"` // 4404
	Closed   map[string]int `json:"closed"`                     // how connections that stood ended
	Other    map[string]int `json:"other_failures,omitempty"`
}

func (r *restartReport) table(w io.Writer) {
	fmt.Fprintf(w, "restart under %d pairs; peers redial after %g, %g, %g … s ± 20 %%; times in seconds after the signal\n",
		r.Pairs, r.Redial, 2*r.Redial, 4*r.Redial)
	const row = "%-26s %7s %7s %7s %7s   %-15s %8s %8s %5s %5s\n"
	fmt.Fprintf(w, row, "", "ended", "ready", "half", "all", "a pair is", "attempts", "refused", "503", "4404")
	fmt.Fprintf(w, row, "", "", "again", "back", "back", "without (most)", "in 0.1 s", "", "", "")
	s := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	for _, one := range r.Rows {
		fmt.Fprintf(w, row, one.name(), s(one.Ended), s(one.Ready), s(one.Half), s(one.All),
			fmt.Sprintf("%.2f (%.2f)", one.Without, one.Longest),
			fmt.Sprint(one.Busiest), fmt.Sprint(one.Refused), fmt.Sprint(one.Answered), fmt.Sprint(one.Early))
		for _, how := range slices.Sorted(maps.Keys(one.Closed)) {
			fmt.Fprintf(w, "    %5d × %s\n", one.Closed[how], how)
		}
		for _, how := range slices.Sorted(maps.Keys(one.Other)) {
			fmt.Fprintf(w, "    %5d × failed to connect: %s\n", one.Other[how], how)
		}
	}
}

func (r *restartRow) name() string {
	name := "own socket"
	if r.Kept {
		name = "socket kept"
	}
	if r.Spread > 0 {
		name += fmt.Sprintf(", spread %.0f s", r.Spread)
	}
	return name
}

// wrong is what must not happen: with a socket that outlives the process
// nobody is refused.
func (r *restartReport) wrong() error {
	for _, row := range r.Rows {
		if row.Kept && row.Refused > 0 {
			return fmt.Errorf("%s: %d connections were refused; want none", row.name(), row.Refused)
		}
	}
	return nil
}

// Run is called by kong.
func (c *restartCommand) Run(e *env) error {
	switch {
	case c.Pairs < 1:
		return usagef("--pairs must be 1 or more")
	case c.Spread < 100*time.Millisecond || c.Spread > time.Minute:
		return usagef("--spread %s must be from 100ms to 1m", c.Spread)
	case c.Redial < 10*time.Millisecond || c.Redial > maxRedial:
		return usagef("--redial %s must be from 10ms to %s", c.Redial, maxRedial)
	}
	if err := enoughFiles(2 * c.Pairs); err != nil {
		return err
	}
	if _, err := os.Stat(c.Relay); err != nil {
		return usagef("%v: make build makes it, --relay says where it is", err)
	}
	r := &restartReport{Pairs: c.Pairs, Redial: c.Redial.Seconds()}
	for _, kept := range []bool{false, true} {
		for _, spread := range []time.Duration{0, c.Spread} {
			row := &restartRow{Kept: kept, Spread: spread.Seconds(), Closed: make(map[string]int), Other: make(map[string]int)}
			if err := c.restart(e, row, spread); err != nil {
				return fmt.Errorf("%s: %w", row.name(), err)
			}
			r.Rows = append(r.Rows, row)
		}
	}
	if err := e.print(c.JSON, r); err != nil {
		return err
	}
	return r.wrong()
}

// Bounds of a restart.
const (
	gatherIn = time.Minute      // until all pairs have had a round trip
	endIn    = 20 * time.Second // the drain, beside its spread
	returnIn = 2 * time.Minute  // until all pairs have had one again

	maxRedial = 30 * time.Second // what peers wait at most between two attempts
)

// restart is one row.
func (c *restartCommand) restart(e *env, row *restartRow, spread time.Duration) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// Without a socket that is kept the address stays the same all the same.
	address, socket := ln.Addr().String(), (*os.File)(nil)
	if row.Kept {
		if socket, err = ln.(*net.TCPListener).File(); err != nil {
			return err
		}
	}
	ln.Close()
	closeSocket := sync.OnceFunc(func() { socket.Close() })
	defer closeSocket()
	launch := func() (*child, error) {
		return startCmd(e.ctx, "relay", relayOn(socket, c.Relay, "serve", "--listen", address, "--metrics-listen", "127.0.0.1:0",
			"--drain-spread", spread.String(), "--drain", (spread+endIn/2).String()))
	}
	relay, err := launch()
	if err != nil {
		return err
	}
	t := &target{addr: address, buffer: idleBuffer, timeout: time.Minute, dialled: new(atomic.Int64)}
	p := &returners{crowd: &crowd{shape: shape{size: minFrame, flight: 1}, to: t}, pairs: c.Pairs, redial: c.Redial, row: row}
	ctx, stop := context.WithCancel(e.ctx)
	defer func() {
		stop()
		closeSocket() // or who waits in its queue would wait for good
		relay.end()
		p.tasks.Wait()
	}()
	p.start(ctx)
	if err := p.until(e, gatherIn, p.joined.Load); err != nil {
		return relay.failed(err)
	}
	p.restarting()
	_ = relay.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-relay.exited:
	case <-time.After(spread + endIn):
		return fmt.Errorf("the relay has not ended %s after the signal", spread+endIn)
	}
	ended := p.since()
	next, err := launch()
	if err != nil {
		return err
	}
	relay = next
	ready := p.since()
	if err := p.until(e, returnIn, p.back); err != nil {
		return relay.failed(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	row.Ended, row.Ready = ended.Seconds(), ready.Seconds()
	p.finish()
	return nil
}

// relayOn is the relay's command, with socket as systemd would hand it over.
func relayOn(socket *os.File, program string, args ...string) *exec.Cmd {
	if socket == nil {
		return exec.Command(program, args...)
	}
	// Only the process itself knows its number.
	const script = `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=public exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, program}, args...)...)
	cmd.ExtraFiles = []*os.File{socket}
	return cmd
}

// returners are pairs that come back when the relay ends.
type returners struct {
	crowd  *crowd // what their phones are made in
	pairs  int
	redial time.Duration
	tasks  sync.WaitGroup
	joined atomic.Int64 // pairs that had a round trip before the signal

	mu       sync.Mutex // guards all below
	row      *restartRow
	signal   time.Time       // zero before it
	attempts []time.Duration // when, after the signal
	returned []time.Duration // pairs, when after the signal
	without  []time.Duration // and for how long they had been without
}

// start makes the pairs, until ctx ends.
func (p *returners) start(ctx context.Context) {
	for i := range p.pairs {
		server := fmt.Sprintf("restart-%d-%d", self, i)
		held := make(chan struct{})
		hold := sync.OnceFunc(func() { close(held) })
		p.tasks.Go(func() { p.keep(ctx, func() (bool, error) { return p.binary(ctx, server, hold) }) })
		p.tasks.Go(func() {
			select {
			case <-held:
			case <-ctx.Done():
				return
			}
			var closed time.Time
			p.keep(ctx, func() (stood bool, err error) {
				stood, err = p.phone(ctx, server, i, closed)
				if stood {
					closed = time.Now()
				}
				return stood, err
			})
		})
	}
}

// keep connects, and again after each end, with the backoff of deployed
// peers. once tells whether its connection stood.
func (p *returners) keep(ctx context.Context, once func() (stood bool, err error)) {
	for pause := p.redial; ; pause = min(2*pause, maxRedial) {
		p.attempt()
		stood, err := once()
		if ctx.Err() != nil {
			return
		}
		p.note(stood, err)
		if stood {
			pause = p.redial
		}
		wait(ctx, time.Duration(float64(pause)*(0.8+0.4*rand.Float64())))
	}
}

// binary is one connection of a binary that echoes.
func (p *returners) binary(ctx context.Context, server string, held func()) (stood bool, err error) {
	c, err := p.crowd.to.dial("/v1/server", server)
	if err != nil {
		return false, err
	}
	defer c.closeWith(ctx)()
	held()
	return true, (&caller{peer: c, ids: make(map[int]string)}).echo()
}

// phone is one connection of a phone. It stood if it had a round trip. The
// one before it, if there was one, was closed at closed.
func (p *returners) phone(ctx context.Context, server string, n int, closed time.Time) (stood bool, err error) {
	c, err := p.crowd.to.dial("/v1/client", server)
	if err != nil {
		return false, err
	}
	defer c.closeWith(ctx)()
	ph := &phone{peer: c, crowd: p.crowd, number: n,
		checker: newFramer(p.crowd.size, n), maker: newFramer(p.crowd.size, n), times: make([]int64, 1)}
	if err := ph.hello(); err != nil {
		return false, err
	}
	p.up(closed)
	for err == nil {
		_, err = ph.next()
	}
	return true, err
}

// closeWith closes p when ctx ends, or when the function it returns is called.
func (p *peer) closeWith(ctx context.Context) (now func()) {
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	return func() {
		stop()
		p.conn.Close()
	}
}

// attempt notes that somebody dials.
func (p *returners) attempt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.signal.IsZero() {
		p.attempts = append(p.attempts, time.Since(p.signal))
	}
}

// up notes a phone's first round trip.
func (p *returners) up(closed time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if closed.IsZero() {
		p.joined.Add(1)
		return
	}
	p.returned = append(p.returned, time.Since(p.signal))
	p.without = append(p.without, time.Since(closed))
}

// note counts the end of a connection, or that there was none.
func (p *returners) note(stood bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signal.IsZero() {
		return
	}
	row := p.row
	_, closed := errors.AsType[*closedError](err)
	switch {
	case stood && closed:
		row.Closed[err.Error()]++
	case stood:
		row.Closed["without a close"]++
	case errors.Is(err, syscall.ECONNREFUSED):
		row.Refused++
	case strings.Contains(err.Error(), "HTTP 503"):
		row.Answered++
	case isClosed(err, 4404):
		row.Early++
	default:
		row.Other[strings.TrimPrefix(err.Error(), "no answer to the handshake: ")]++
	}
}

// restarting says that the signal is sent now.
func (p *returners) restarting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signal = time.Now()
}

func (p *returners) since() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.signal)
}

func (p *returners) back() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(len(p.returned))
}

// until waits until done is all pairs.
func (p *returners) until(e *env, most time.Duration, done func() int64) error {
	for end := time.Now().Add(most); ; wait(e.ctx, 5*time.Millisecond) {
		n := done()
		switch {
		case n >= int64(p.pairs):
			return nil
		case e.ctx.Err() != nil:
			return errInterrupted
		case time.Now().After(end):
			return fmt.Errorf("only %d of %d pairs had a round trip within %s", n, p.pairs, most)
		}
		e.tell.say("%s: %d of %d pairs", p.row.name(), n, p.pairs)
	}
}

// finish makes figures of what was noted. The lock is held.
func (p *returners) finish() {
	slices.Sort(p.returned)
	slices.Sort(p.without)
	slices.Sort(p.attempts)
	row := p.row
	row.Half, row.All = middle(p.returned).Seconds(), p.returned[len(p.returned)-1].Seconds()
	row.Without, row.Longest = middle(p.without).Seconds(), p.without[len(p.without)-1].Seconds()
	row.Busiest = most(p.attempts, 100*time.Millisecond)
}

// middle is the median of a sorted list.
func middle(all []time.Duration) time.Duration { return all[len(all)/2] }

// most is how many of a sorted list lie within w of each other at most.
func most(all []time.Duration, w time.Duration) (n int) {
	first := 0
	for i := range all {
		for all[i]-all[first] >= w {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}
