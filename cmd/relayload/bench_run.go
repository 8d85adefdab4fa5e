package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// benchRun is one run of the bench command.
type benchRun struct {
	*driver
	*benchCommand
	report *benchReport

	plain, tls []*load.Child // the candidates; the relay is the first
	others     []*load.Child // relays that belong to one row
	echoes     []net.Listener
	cert       *selfSigned
}

// serve returns the arguments of a relay with room for all connections.
func (b *benchRun) serve(more ...string) []string { return relayArgs(b.Conns+1000, more...) }

// candidates returns the programs to compare. The first call starts them.
func (b *benchRun) candidates(tls bool) ([]*load.Child, error) {
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
	echo, err := b.echoServer(tls)
	if err != nil {
		return nil, err
	}
	programs := []program{
		{"relay", append([]string{b.Relay}, b.serve(options...)...)},
		{"baseline", append([]string{b.me, "baseline"}, options...)},
	}
	if !tls {
		programs = append(programs, program{"splice", []string{b.me, "splice", "--to=" + echo}})
	}
	if b.Before != "" {
		programs = append(programs, program{"before", append([]string{b.Before}, b.serve(options...)...)})
	}
	for _, p := range programs {
		c, err := load.Start(b.Ctx, p.name, p.argv[0], p.argv[1:]...)
		if err != nil {
			return nil, err
		}
		*all = append(*all, c)
	}
	if path := haproxyPath(); path != "" {
		c, err := startHaproxy(b.Ctx, path, echo, b.certFor(tls))
		if err != nil {
			return nil, err
		}
		*all = append(*all, c)
	}
	return *all, nil
}

// program is a candidate that prints its address.
type program struct {
	name string
	argv []string
}

// certFor returns the certificate if tls is set, and nil otherwise.
func (b *benchRun) certFor(tls bool) *selfSigned {
	if tls {
		return b.cert
	}
	return nil
}

// echoServer starts the server behind the byte copiers and returns its address.
func (b *benchRun) echoServer(withTLS bool) (string, error) {
	var config *tls.Config
	if withTLS {
		var err error
		if config, err = b.cert.server(); err != nil {
			return "", err
		}
	}
	ln, err := load.EchoServer(config)
	if err != nil {
		return "", err
	}
	b.echoes = append(b.echoes, ln)
	return ln.Addr().String(), nil
}

func (b *benchRun) end() {
	for _, all := range [][]*load.Child{b.plain, b.tls, b.others} {
		for _, c := range all {
			c.End()
		}
	}
	for _, ln := range b.echoes {
		ln.Close()
	}
	if b.cert != nil {
		b.cert.remove()
	}
}

// to returns the driver for a candidate.
func (b *benchRun) to(c *load.Child, tls bool, buffer int) *driver {
	t := &load.Target{Addr: c.Addr, Raw: copiesBytes(c.Name), Buffer: buffer, Timeout: 10 * time.Second}
	if tls {
		t.TLS = b.cert.client()
	}
	return b.at(t, c.Pid())
}

// rowEntry is one candidate in a row, with its connected fleet.
type rowEntry struct {
	*load.Child
	candidate string
	fleet     *load.Fleet
	samples   []load.Sample
}

// runRounds measures all entries once per round, interleaved as A B C A B C,
// because the speed of a shared machine drifts.
func (b *benchRun) runRounds(row string, all []*rowEntry) error {
	for round := range b.Rounds {
		for _, t := range all {
			what := fmt.Sprintf("%s, round %d of %d, %s", row, round+1, b.Rounds, t.candidate)
			s, err := b.at(nil, t.Pid()).measure(t.fleet, what, b.For)
			if err != nil {
				return t.Failed(err)
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
		if copiesBytes(c.Name) && w.shape.Fanout {
			continue
		}
		fl, err := b.to(c, w.tls, load.BusyBuffer).connect(w.shape)
		if err != nil {
			return c.Failed(err)
		}
		defer fl.Close()
		all = append(all, &rowEntry{Child: c, candidate: c.Name, fleet: fl})
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
		if copiesBytes(c.Name) {
			continue // its phones have no common binary
		}
		fl, err := b.to(c, false, load.BusyBuffer).connect(load.Shape{Binaries: 1, Phones: 7, Size: 512, Flight: 1})
		if err != nil {
			return c.Failed(err)
		}
		err = func() error {
			defer fl.Close()
			alone := &rowEntry{Child: c, candidate: c.Name, fleet: fl}
			if err := b.runRounds(rowFlood+", alone", []*rowEntry{alone}); err != nil {
				return err
			}
			if err := fl.AddFlooders(1, floodFlight); err != nil {
				return err
			}
			flooded := &rowEntry{Child: c, candidate: c.Name, fleet: fl}
			if err := b.runRounds(rowFlood, []*rowEntry{flooded}); err != nil {
				return err
			}
			b.report.Flood = append(b.report.Flood, newBenchRow("alone", c.Name, alone.samples), newBenchRow("flooded", c.Name, flooded.samples))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// stayIdle measures idle connections, at the relay last.
func (b *benchRun) stayIdle(tls bool, conns int, watchFor time.Duration) error {
	children, err := b.candidates(tls)
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(children) {
		if c.Name == "splice" {
			continue // its memory is that of two goroutines
		}
		metrics, watch, n := "", time.Second, min(2000, conns)
		if c.Private != "" {
			metrics, watch, n = "http://"+c.Private+"/metrics", watchFor, conns
		}
		r, err := b.to(c, tls, load.IdleBuffer).idle(n, 16, watch, metrics)
		if err != nil {
			return c.Failed(err)
		}
		b.report.Idle = append(b.report.Idle, &idleEntry{c.Name, tls, r})
	}
	return b.waitClosed(children[0])
}

// waitClosed waits until the relay has closed the connections of the previous
// row.
func (b *benchRun) waitClosed(relay *load.Child) error {
	for end := time.Now().Add(20 * time.Second); ; load.Wait(b.Ctx, 200*time.Millisecond) {
		f, _, err := load.ReadProcStats("http://" + relay.Private + "/metrics")
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
	levels := []int{0, 100, 1000, b.Conns}
	var all []*rowEntry
	for _, n := range levels {
		c, err := load.Start(b.Ctx, "relay", b.Relay, b.serve()...)
		if err != nil {
			return err
		}
		b.others = append(b.others, c) // ended with the candidates
		if n > 0 {
			idle, err := b.to(c, false, load.IdleBuffer).connect(load.Shape{Binaries: n / 2, Phones: 1, Size: load.MinFrame, Flight: 1})
			if err != nil {
				return err
			}
			defer idle.Close()
		}
		fl, err := b.to(c, false, load.BusyBuffer).connect(roundTrips)
		if err != nil {
			return err
		}
		defer fl.Close()
		all = append(all, &rowEntry{Child: c, candidate: fmt.Sprintf("relay among %d", n), fleet: fl})
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
		s := load.Shape{Binaries: conns / (1 + busyPhones), Phones: busyPhones, Size: 512, Flight: 1}
		for _, c := range children {
			t := &rowEntry{Child: c, candidate: c.Name}
			if t.fleet, err = b.to(c, false, load.SmallBuffer).connect(s); err != nil {
				return c.Failed(err)
			}
			err = b.runRounds(fmt.Sprintf("%s, %d connections", rowBusy, s.Connections()), []*rowEntry{t})
			t.fleet.Close()
			if err != nil {
				return err
			}
			r := newBenchRow("", t.candidate, t.samples)
			r.Connections = s.Connections()
			b.report.Busy = append(b.report.Busy, r)
			if err := b.waitClosed(children[0]); err != nil {
				return err
			}
		}
	}
	return nil
}
