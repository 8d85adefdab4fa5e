package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
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
