package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// benchRun is one run of the bench command.
type benchRun struct {
	*env
	*benchCommand
	me     string
	report *benchReport

	plain, tls []*child // the contestants: relay first
	others     []*child // relays that one row has for itself
	cert       *selfSigned
}

// relayArgs is how a relay is started: on free ports, with room for so many.
func relayArgs(conns int, more ...string) []string {
	return append([]string{"serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--drain=0s",
		fmt.Sprintf("--max-conns=%d", conns)}, more...)
}

func (b *benchRun) serve(more ...string) []string { return relayArgs(b.Conns+1000, more...) }

// candidates starts those that compare, once.
func (b *benchRun) candidates(tls bool) ([]*child, error) {
	all, options := &b.plain, []string(nil)
	if tls {
		all = &b.tls
		if b.cert == nil {
			var err error
			if b.cert, err = newSelfSigned(); err != nil {
				return nil, err
			}
		}
		options = []string{"--tls-cert=" + b.cert.certFile, "--tls-key=" + b.cert.keyFile}
	}
	if *all != nil {
		return *all, nil
	}
	type program struct {
		name string
		argv []string
	}
	programs := []program{
		{"relay", append([]string{b.Relay}, b.serve(options...)...)},
		{"baseline", append([]string{b.me, "baseline"}, options...)},
	}
	if !tls {
		ln, err := echoServer()
		if err != nil {
			return nil, err
		}
		programs = append(programs, program{"splice", []string{b.me, "splice", "--to=" + ln.Addr().String()}})
	}
	if b.Before != "" {
		programs = append(programs, program{"before", append([]string{b.Before}, b.serve(options...)...)})
	}
	for _, p := range programs {
		c, err := start(b.ctx, p.name, p.argv[0], p.argv[1:]...)
		if err != nil {
			return nil, err
		}
		*all = append(*all, c)
	}
	return *all, nil
}

func (b *benchRun) end() {
	for _, all := range [][]*child{b.plain, b.tls, b.others} {
		for _, c := range all {
			c.end()
		}
	}
	if b.cert != nil {
		b.cert.remove()
	}
}

// to is a contestant as a target.
func (b *benchRun) to(c *child, tls bool, buffer int) *target {
	t := &target{addr: c.addr, raw: c.name == "splice", buffer: buffer, timeout: 10 * time.Second, dialled: new(atomic.Int64)}
	if tls {
		t.tls = b.cert.client()
	}
	return t
}

// rowEntry is one contestant in a row, connected.
type rowEntry struct {
	*child
	candidate string
	fleet     *fleet
	samples   []sample
}

// runRounds runs all in turn, A B C A B C …, since a shared machine drifts.
func (b *benchRun) runRounds(row string, all []*rowEntry) error {
	for round := range b.Rounds {
		for _, t := range all {
			what := fmt.Sprintf("%s, round %d of %d, %s", row, round+1, b.Rounds, t.candidate)
			s, err := t.fleet.run(b.ctx, b.For, t.pid(), b.progress.running(what))
			if err != nil {
				return t.failed(err)
			}
			t.samples = append(t.samples, s)
		}
	}
	return nil
}

// work runs one row about traffic.
func (b *benchRun) work(w work) error {
	children, err := b.candidates(w.tls)
	if err != nil {
		return err
	}
	var all []*rowEntry
	for _, c := range children {
		if c.name == "splice" && !w.splices() {
			continue
		}
		fl, err := connectFleet(b.to(c, w.tls, busyBuffer), w.shape, b.progress.connecting)
		if err != nil {
			return c.failed(err)
		}
		defer fl.close()
		all = append(all, &rowEntry{child: c, candidate: c.name, fleet: fl})
	}
	if err := b.runRounds(w.Name, all); err != nil {
		return err
	}
	for _, t := range all {
		b.report.Rows = append(b.report.Rows, newBenchRow(w.Name, t.candidate, t.samples))
	}
	return nil
}

// floodFlight is how many round trips the flooding phone has under way.
const floodFlight = 2000

// flood measures seven phones of a binary, alone and beside an eighth that
// floods it.
func (b *benchRun) flood() error {
	children, err := b.candidates(false)
	if err != nil {
		return err
	}
	for _, c := range children {
		if c.name == "splice" {
			continue // nothing is shared in it
		}
		fl, err := connectFleet(b.to(c, false, busyBuffer), shape{binaries: 1, phones: 7, size: 512, flight: 1}, b.progress.connecting)
		if err != nil {
			return c.failed(err)
		}
		err = func() error {
			defer fl.close()
			alone := &rowEntry{child: c, candidate: c.name, fleet: fl}
			if err := b.runRounds(rowFlood+", alone", []*rowEntry{alone}); err != nil {
				return err
			}
			if err := fl.addFlooders(1, floodFlight); err != nil {
				return err
			}
			flooded := &rowEntry{child: c, candidate: c.name, fleet: fl}
			if err := b.runRounds(rowFlood, []*rowEntry{flooded}); err != nil {
				return err
			}
			b.report.Flood = append(b.report.Flood, newBenchRow("alone", c.name, alone.samples), newBenchRow("beside", c.name, flooded.samples))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// idle opens connections that do nothing, first at the baseline, then at the relay.
func (b *benchRun) idle() error { return b.stayIdle(false, b.Conns, b.IdleFor) }

// tlsIdle is idle with TLS, fewer of them and without a heartbeat: what is
// asked is what a handshake and a connection cost.
func (b *benchRun) tlsIdle() error { return b.stayIdle(true, min(4000, b.Conns), 4*time.Second) }

func (b *benchRun) stayIdle(tls bool, conns int, watchFor time.Duration) error {
	children, err := b.candidates(tls)
	if err != nil {
		return err
	}
	for _, c := range []*child{children[1], children[0]} {
		metrics, watch, n := "", time.Second, min(2000, conns)
		if c.private != "" {
			metrics, watch, n = "http://"+c.private+"/metrics", watchFor, conns
		}
		r, fl, err := idle(b.env, b.to(c, tls, idleBuffer), n, 16, watch, c.pid(), metrics)
		if err != nil {
			return c.failed(err)
		}
		fl.close()
		b.report.Idle = append(b.report.Idle, &idleEntry{c.name, tls, r})
	}
	return b.waitClosed(children[0])
}

// waitClosed waits until a relay has let go of all that left.
func (b *benchRun) waitClosed(relay *child) error {
	for end := time.Now().Add(20 * time.Second); ; wait(b.ctx, 200*time.Millisecond) {
		f, _, err := scrape("http://" + relay.private + "/metrics")
		if err != nil || f.FDs < 50 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the relay still has %.0f files open", f.FDs)
		}
	}
}

// among measures the same round trips among more and more idle connections:
// a relay for each number of them, taking turns like the others.
func (b *benchRun) among() error {
	busy := shape{binaries: 4, phones: 8, size: 512, flight: 4}
	levels := []int{0, 100, 1000, b.Conns}
	var all []*rowEntry
	for _, n := range levels {
		c, err := start(b.ctx, "relay", b.Relay, b.serve()...)
		if err != nil {
			return err
		}
		b.others = append(b.others, c) // ended with the contestants
		if n > 0 {
			idle, err := connectFleet(b.to(c, false, idleBuffer), shape{binaries: n / 2, phones: 1, size: minFrame, flight: 1}, b.progress.connecting)
			if err != nil {
				return err
			}
			defer idle.close()
		}
		fl, err := connectFleet(b.to(c, false, busyBuffer), busy, b.progress.connecting)
		if err != nil {
			return err
		}
		defer fl.close()
		all = append(all, &rowEntry{child: c, candidate: fmt.Sprintf("relay among %d", n), fleet: fl})
	}
	if err := b.runRounds(rowAmong, all); err != nil {
		return err
	}
	for i, n := range levels {
		r := newBenchRow("", "relay", all[i].samples)
		r.Connections = n
		b.report.Among = append(b.report.Among, r)
	}
	return nil
}

// busyPhones is of each binary in the rows with many that are busy.
const busyPhones = 8

// busy measures ever more phones that are all busy. The splice takes part:
// the processor's caches and the kernel's tables are no larger for it. Here
// one comes after the other: together they would need too many open files.
func (b *benchRun) busy() error {
	children, err := b.candidates(false)
	if err != nil {
		return err
	}
	for conns := 90; conns <= b.Conns; conns *= 10 {
		s := shape{binaries: conns / (1 + busyPhones), phones: busyPhones, size: 512, flight: 1}
		for _, c := range children {
			t := &rowEntry{child: c, candidate: c.name}
			if t.fleet, err = connectFleet(b.to(c, false, smallBuffer), s, b.progress.connecting); err != nil {
				return c.failed(err)
			}
			err = b.runRounds(fmt.Sprintf("%s, %d connections", rowBusy, s.connections()), []*rowEntry{t})
			t.fleet.close()
			if err != nil {
				return err
			}
			r := newBenchRow("", t.candidate, t.samples)
			r.Connections = s.connections()
			b.report.Busy = append(b.report.Busy, r)
			if err := b.waitClosed(children[0]); err != nil {
				return err
			}
		}
	}
	return nil
}
