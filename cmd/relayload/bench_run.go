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

	plain, tls []*child // the candidates; the relay is the first
	others     []*child // relays that belong to one row
	cert       *selfSigned
}

// relayArgs returns the arguments of a relay on free ports with room for conns
// connections.
func relayArgs(conns int, more ...string) []string {
	return append([]string{"serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--drain=0s",
		fmt.Sprintf("--max-conns=%d", conns)}, more...)
}

func (b *benchRun) serve(more ...string) []string { return relayArgs(b.Conns+1000, more...) }

// candidates returns the programs to compare. The first call starts them.
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

// to returns a candidate as a target.
func (b *benchRun) to(c *child, tls bool, buffer int) *target {
	t := &target{addr: c.addr, raw: c.name == "splice", buffer: buffer, timeout: 10 * time.Second, dialled: new(atomic.Int64)}
	if tls {
		t.tls = b.cert.client()
	}
	return t
}

// rowEntry is one candidate in a row, with its connected fleet.
type rowEntry struct {
	*child
	candidate string
	fleet     *fleet
	samples   []sample
}

// runRounds measures all entries once per round, interleaved as A B C A B C,
// because the speed of a shared machine drifts.
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

// work runs one traffic row.
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

// floodFlight is the number of round trips that the flooding phone has in
// flight.
const floodFlight = 2000

// flood measures seven phones of a binary, alone and while an eighth phone
// floods the binary.
func (b *benchRun) flood() error {
	children, err := b.candidates(false)
	if err != nil {
		return err
	}
	for _, c := range children {
		if c.name == "splice" {
			continue // its phones have no common binary
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
			b.report.Flood = append(b.report.Flood, newBenchRow("alone", c.name, alone.samples), newBenchRow("flooded", c.name, flooded.samples))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// idle measures idle connections, first at the baseline, then at the relay.
func (b *benchRun) idle() error { return b.stayIdle(false, b.Conns, b.IdleFor) }

// tlsIdle measures idle connections with TLS. They are fewer and the time
// includes no heartbeat: the row shows the cost of a handshake and of a
// connection.
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

// waitClosed waits until the relay has closed the connections of the previous
// row.
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

// among measures the same round trips with a growing number of idle connections
// at the same relay. Each number of idle connections has its own relay, so that
// the rounds can be interleaved.
func (b *benchRun) among() error {
	busy := shape{binaries: 4, phones: 8, size: 512, flight: 4}
	levels := []int{0, 100, 1000, b.Conns}
	var all []*rowEntry
	for _, n := range levels {
		c, err := start(b.ctx, "relay", b.Relay, b.serve()...)
		if err != nil {
			return err
		}
		b.others = append(b.others, c) // ended with the candidates
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

// busyPhones is the number of phones per binary in the rows with many busy
// connections.
const busyPhones = 8

// busy measures a growing number of busy phones. The splice is included, because
// processor caches and kernel tables limit it equally. The candidates run one
// after the other: together they need too many open files.
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
