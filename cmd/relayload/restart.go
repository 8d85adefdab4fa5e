package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

type restartCommand struct {
	Relay  string        `default:"bin/pyrycode-relay" help:"The relay's program."`
	Pairs  int           `default:"1000" help:"Binaries, each with one phone."`
	Alone  bool          `name:"binaries-only" help:"Binaries without phones."`
	Rounds int           `default:"1" help:"Restarts of each row, one after the other. A row shows their sum."`
	Ways   []string      `default:"own,own-spread,kept,kept-spread,balancer" values:"own,own-spread,kept,kept-spread,balancer" help:"Ways to restart, a row for each: the relay opens its own socket, the socket is kept by the supervisor, or a second relay takes over behind a balancer."`
	Age    []string      `default:"long,young" values:"long,young" help:"The age of the connections at the signal, a row for each. long: 60 s or more, so that the first failed dial costs the first step of the backoff. young: less, and the client has reached the last step."`
	Spread time.Duration `default:"10s" help:"The --drain-spread of the rows that have one."`
	Wait   time.Duration `default:"1s" help:"The --drain-wait of the row with a balancer. The balancer polls /readyz five times in this time and excludes a relay after two failures."`
	Redial time.Duration `default:"1s" help:"The first step of the clients' backoff; the next are 2, 4, 8, 16 and 30 times as long, each ± 20 %."`
	JSON   bool          `name:"json" help:"Print JSON, not a table."`
}

// restartReport has a row for each way to restart.
type restartReport struct {
	Pairs  int           `json:"pairs"`
	Alone  bool          `json:"binaries_only"`
	Rounds int           `json:"rounds"`
	Redial float64       `json:"redial_seconds"`
	Rows   []*restartRow `json:"rows"`
}

// restartRow is the result of one way to restart. All times are seconds after
// the signal, unless their comment says otherwise. A binary is back when it is
// connected, a phone when it has completed a round trip.
type restartRow struct {
	Way    string  `json:"way"`
	Spread float64 `json:"drain_spread"`
	Wait   float64 `json:"drain_wait"`
	Young  bool    `json:"young"` // the age of the connections that the restart ends

	Ended float64 `json:"ended"`       // the longest of all rounds
	Ready float64 `json:"ready_again"` // likewise

	Redials    int            `json:"binary_redials"`
	Lost       map[string]int `json:"binary_redials_lost"` // by cause
	PhonesLost map[string]int `json:"phone_redials_lost"`  // by cause, 4404 excluded
	Early      int            `json:"phones_before_their_binary"`
	Closed     map[string]int `json:"closed"` // how connections ended
	Busiest    int            `json:"most_attempts_in_100ms"`

	Binaries reconnectTimes `json:"binaries_back"`
	Phones   reconnectTimes `json:"phones_back"`
	Without  reconnectTimes `json:"phone_without"` // from the close of its connection

	binaries, phones, without []time.Duration
}

// reconnectTimes are the seconds until half, 99 % and all of the clients are
// back.
type reconnectTimes struct {
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	All    float64 `json:"all"`
}

// newReconnectTimes sorts times and returns their quantiles.
func newReconnectTimes(times []time.Duration) (b reconnectTimes) {
	if len(times) == 0 {
		return b
	}
	slices.Sort(times)
	at := func(percent int) float64 { return times[max((len(times)*percent+99)/100, 1)-1].Seconds() }
	return reconnectTimes{at(50), at(99), at(100)}
}

func (b reconnectTimes) String() string {
	return fmt.Sprintf("%.2f / %.2f / %.2f", b.Median, b.P99, b.All)
}

// Table implements load.Report.
func (r *restartReport) Table(w io.Writer) {
	of := "pairs"
	if r.Alone {
		of = "binaries"
	}
	fmt.Fprintf(w, "%d × restart under %d %s; a close frame makes a binary redial immediately, everything else costs a step of the backoff: %g, %g, %g … s ± 20 %%\n",
		r.Rounds, r.Pairs, of, r.Redial, 2*r.Redial, 4*r.Redial)
	fmt.Fprintln(w, "times in seconds after the signal; back: half / 99 % / all")
	const row = "%-44s %7s %7s %8s %7s   %-22s %-22s %6s %6s %8s\n"
	fmt.Fprintf(w, row, "", "ended", "ready", "redials", "lost", "binaries", "phones", "phones", "4404", "attempts")
	fmt.Fprintf(w, row, "", "", "again", "", "", "back", "back", "lost", "", "in 0.1 s")
	s := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	for _, one := range r.Rows {
		fmt.Fprintf(w, row, one.name(), s(one.Ended), s(one.Ready), fmt.Sprint(one.Redials), fmt.Sprint(sum(one.Lost)),
			one.Binaries, one.Phones, fmt.Sprint(sum(one.PhonesLost)), fmt.Sprint(one.Early), fmt.Sprint(one.Busiest))
		list := func(of map[string]int, what string) {
			for _, how := range slices.Sorted(maps.Keys(of)) {
				fmt.Fprintf(w, "    %5d × %s%s\n", of[how], what, how)
			}
		}
		list(one.Lost, "binary's redial lost: ")
		list(one.PhonesLost, "phone's redial lost: ")
		list(one.Closed, "")
	}
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// Ways to restart.
const (
	wayOwn      = "own"
	wayKept     = "kept"
	wayBalancer = "balancer"
	spreadToo   = "-spread"
)

func (r *restartRow) name() string {
	name := map[string]string{wayOwn: "own socket", wayKept: "socket kept", wayBalancer: "two relays behind a balancer"}[r.Way]
	if r.Spread > 0 {
		name += fmt.Sprintf(", spread %g s", r.Spread)
	}
	if r.Young {
		name += ", young"
	}
	return name
}

// wrong returns an error if a redial failed although the socket outlives the
// process, or although a balancer excludes the relay first.
func (r *restartReport) wrong() error {
	for _, row := range r.Rows {
		if n := sum(row.Lost) + sum(row.PhonesLost); row.Way != wayOwn && n > 0 {
			return fmt.Errorf("%s: %d redials were lost; want none", row.name(), n)
		}
	}
	return nil
}

func (c *restartCommand) plan() (plan, error) {
	switch {
	case c.Pairs < 1:
		return plan{}, load.Usagef("--pairs %d must be 1 or more", c.Pairs)
	case c.Rounds < 1 || c.Rounds > 1000:
		return plan{}, load.Usagef("--rounds %d must be from 1 to 1000", c.Rounds)
	case c.Spread < 100*time.Millisecond || c.Spread > time.Minute:
		return plan{}, load.Usagef("--spread %s must be from 100ms to 1m", c.Spread)
	case c.Wait < 100*time.Millisecond || c.Wait > time.Minute:
		return plan{}, load.Usagef("--wait %s must be from 100ms to 1m", c.Wait)
	case c.Redial < 10*time.Millisecond || c.Redial > time.Second:
		return plan{}, load.Usagef("--redial %s must be from 10ms to 1s", c.Redial)
	}
	if err := load.IsRelay(c.Relay); err != nil {
		return plan{}, err
	}
	const ends = 4 // both ends of a phone and of a binary, and both of the balancer's connections
	return plan{conns: ends * c.Pairs, json: c.JSON}, nil
}

func (c *restartCommand) run(d *driver) (load.Report, error) {
	r := &restartReport{Pairs: c.Pairs, Alone: c.Alone, Rounds: c.Rounds, Redial: c.Redial.Seconds()}
	for _, way := range c.Ways {
		for _, age := range c.Age {
			row := &restartRow{Young: age == "young", Lost: make(map[string]int), PhonesLost: make(map[string]int), Closed: make(map[string]int)}
			var spread bool
			if row.Way, spread = strings.CutSuffix(way, spreadToo); spread {
				row.Spread = c.Spread.Seconds()
			}
			if row.Way == wayBalancer {
				row.Wait = c.Wait.Seconds()
			}
			if err := c.row(d, row); err != nil {
				err = fmt.Errorf("%s: %w", row.name(), err)
				if len(r.Rows) == 0 {
					return nil, err
				}
				return r, err
			}
			r.Rows = append(r.Rows, row)
		}
	}
	return r, r.wrong()
}

// Time limits of a restart.
const (
	gatherIn    = time.Minute      // until all clients are connected
	endIn       = 20 * time.Second // the drain, in addition to its wait and its spread
	reconnectIn = 3 * time.Minute  // until all clients are connected again
)

// row measures one way to restart.
func (c *restartCommand) row(d *driver, row *restartRow) error {
	way, err := c.way(d, row)
	if err != nil {
		return err
	}
	relay, err := way.launch()
	if err != nil {
		way.close()
		return err
	}
	t := &load.Target{Addr: way.address, Buffer: load.IdleBuffer, Timeout: upgradeTimeout}
	p := &restartClients{to: t, fleet: load.NewFleet(t, load.Shape{Size: load.MinFrame, Flight: 1}),
		pairs: c.Pairs, alone: c.Alone, young: row.Young, redial: c.Redial, row: row}
	ctx, stop := context.WithCancel(d.Ctx)
	defer func() {
		stop()
		way.close()                  // otherwise connections in its queue stay open without an answer
		_ = relay.Cmd.Process.Kill() // this shutdown is not measured
		<-relay.Exited()
		p.tasks.Wait()
	}()
	p.start(ctx)
	if err := p.until(d, relay, gatherIn); err != nil {
		return err
	}
	for range c.Rounds {
		if relay, err = c.restart(d, p, way, relay); err != nil {
			return err
		}
	}
	row.Binaries, row.Phones, row.Without = newReconnectTimes(row.binaries), newReconnectTimes(row.phones), newReconnectTimes(row.without)
	return nil
}

// restart replaces relay, waits until all clients are back, and returns the new
// relay. On an error it returns the relay that runs.
func (c *restartCommand) restart(d *driver, p *restartClients, way *restartWay, relay *load.Child) (*load.Child, error) {
	next := (*load.Child)(nil)
	if way.balancer != nil { // the new relay starts first
		var err error
		if next, err = way.launch(); err != nil {
			return relay, err
		}
	}
	p.begin()
	_ = relay.Signal(syscall.SIGTERM)
	within := time.Duration((p.row.Spread+p.row.Wait)*float64(time.Second)) + endIn
	select {
	case <-relay.Exited():
	case <-time.After(within):
		if next != nil {
			next.End()
		}
		return relay, fmt.Errorf("the relay has not ended %s after the signal", within)
	}
	p.row.Ended = max(p.row.Ended, p.since().Seconds())
	if next == nil {
		var err error
		if next, err = way.launch(); err != nil {
			return relay, err
		}
		p.row.Ready = max(p.row.Ready, p.since().Seconds())
	}
	if err := p.until(d, next, reconnectIn); err != nil {
		return next, err
	}
	p.record()
	return next, nil
}

// restartWay starts the relays of one row.
type restartWay struct {
	address  string // where clients dial
	launch   func() (*load.Child, error)
	balancer *balancer // nil: clients dial the relay itself
	close    func()    // closes the socket or the balancer; may be called more than once
}

// way returns the way of a row. The caller must call its close.
func (c *restartCommand) way(d *driver, row *restartRow) (*restartWay, error) {
	spread := time.Duration(row.Spread * float64(time.Second))
	args := []string{"serve", "--metrics-listen", "127.0.0.1:0", "--drain-spread", spread.String(), "--drain", (spread + endIn/2).String()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := ln.Addr().String()
	if row.Way == wayBalancer {
		b := newBalancer(ln, c.Wait/5)
		args = append(args, "--listen", "127.0.0.1:0", "--drain-wait", c.Wait.String(), "--proxy-protocol", "--trusted-proxies", "127.0.0.1/32")
		launch := func() (*load.Child, error) {
			relay, err := load.StartCommand(d.Ctx, "relay", exec.Command(c.Relay, args...), io.Discard, load.StartTimeout)
			if err == nil {
				b.add(relay.Addr, relay.Private)
			}
			return relay, err
		}
		return &restartWay{address: address, launch: launch, balancer: b, close: sync.OnceFunc(b.close)}, nil
	}
	args = append(args, "--listen", address)
	socket := (*os.File)(nil)
	if row.Way == wayKept {
		if socket, err = ln.(*net.TCPListener).File(); err != nil {
			ln.Close()
			return nil, err
		}
	}
	ln.Close() // frees the address for a relay that opens its own socket
	launch := func() (*load.Child, error) {
		return load.StartCommand(d.Ctx, "relay", relayOn(socket, c.Relay, args...), io.Discard, load.StartTimeout)
	}
	return &restartWay{address: address, launch: launch, close: sync.OnceFunc(func() { socket.Close() })}, nil
}

// relayOn returns the relay's command. If socket is not nil, the relay inherits
// it as from systemd.
func relayOn(socket *os.File, program string, args ...string) *exec.Cmd {
	if socket == nil {
		return exec.Command(program, args...)
	}
	// LISTEN_PID is the process's own id, which only the process knows.
	const script = `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=public exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, program}, args...)...)
	cmd.ExtraFiles = []*os.File{socket}
	return cmd
}

// counts returns the numbers of connected binaries and phones, from the relay's
// /healthz.
func counts(relay *load.Child) (binaries, phones int, err error) {
	text, err := load.Page("http://" + relay.Private + "/healthz")
	if err != nil {
		return 0, 0, err
	}
	var health struct {
		Binaries int `json:"connected_binaries"`
		Phones   int `json:"connected_phones"`
	}
	err = json.Unmarshal([]byte(text), &health)
	return health.Binaries, health.Phones, err
}

// maxInWindow returns the maximum number of entries of a sorted list within any
// window of length w.
func maxInWindow(all []time.Duration, w time.Duration) (n int) {
	first := 0
	for i := range all {
		for all[i]-all[first] >= w {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}
