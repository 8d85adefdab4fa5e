package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// scenario is one kind of load.
type scenario interface {
	// plan checks the options and says what the scenario needs. It returns a usage
	// error for invalid options.
	plan() (plan, error)

	// run applies the load and returns the result. The result is printed even if
	// run also returns an error.
	run(d *driver) (load.Report, error)
}

// plan is what a scenario needs of the driver.
type plan struct {
	relay  *relayFlags   // the relay to load; nil: the scenario starts its own relays
	start  string        // start this relay, with one processor, in place of the one of the flags
	conns  int           // connections that the scenario opens at most; they need files
	buffer int           // the size of each connection's read buffer
	length time.Duration // of the run
	json   bool          // print JSON, not a table
}

// driver runs one scenario.
type driver struct {
	*load.Env
	target *load.Target // the relay to load
	pid    int          // its process id; 0: unknown
}

// drive runs the selected command: a scenario, or a program that bench starts.
func drive(selected any, e *load.Env) error {
	s, ok := selected.(scenario)
	if !ok {
		return selected.(interface{ serve(*load.Env) error }).serve(e)
	}
	p, err := s.plan()
	if err != nil {
		return err
	}
	if err := load.EnoughFiles(p.conns); err != nil {
		return err
	}
	d := &driver{Env: e}
	if p.start != "" {
		child, err := load.Start(e.Ctx, "relay", p.start, relayArgs(2*p.conns)...)
		if err != nil {
			return err
		}
		defer child.End()
		p.relay.URL, p.relay.PID = "ws://"+child.Addr, child.Pid()
		runtime.GOMAXPROCS(1) // leaves the other processor to the relay
	}
	if p.relay != nil {
		if d.target, err = p.relay.target(p.buffer, p.length); err != nil {
			return err
		}
		d.pid = p.relay.PID
	}
	r, err := s.run(d)
	if err != nil {
		err = load.Hint(err)
	}
	if r != nil {
		if err := e.Print(p.json, r); err != nil {
			return err
		}
	}
	return err
}

// at returns the driver for another relay.
func (d *driver) at(t *load.Target, pid int) *driver { return &driver{d.Env, t, pid} }

// connect connects a fleet to the relay.
func (d *driver) connect(s load.Shape) (*load.Fleet, error) {
	return load.Connect(d.target, s, d.Progress.Connecting)
}

// measure generates traffic with a fleet for a time. what names it in the progress.
func (d *driver) measure(fl *load.Fleet, what string, length time.Duration) (load.Sample, error) {
	return fl.Run(d.Ctx, length, d.Progress.Running(what), d.pid)
}

// relayArgs returns the arguments of a relay on free ports with room for conns
// connections.
func relayArgs(conns int, more ...string) []string {
	return append([]string{"serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--drain=0s",
		fmt.Sprintf("--max-conns=%d", conns*5/4)}, more...) // a tenth is for addresses with few connections
}

// relayFlags select the relay and the measurements that are taken of its
// process.
type relayFlags struct {
	URL     string        `default:"ws://127.0.0.1:8080" help:"The relay, ws://host:port or wss://host:port."`
	AnyCert bool          `name:"any-certificate" help:"Do not verify the certificate of a wss:// relay, for example if it is self-signed."`
	PID     int           `name:"pid" help:"The process id of a relay on this machine; its processor time and memory are measured."`
	Metrics string        `help:"The relay's metrics, http://host:port/metrics; its goroutines and heap are reported."`
	Timeout time.Duration `default:"10s" help:"Time limit for establishing each connection."`
	Own     bool          `name:"i-own-this-relay" help:"Allow a relay that is not on loopback."`
	JSON    bool          `name:"json" help:"Print JSON, not a table."`
}

// maxRun bounds every run, so that a forgotten load stops.
const maxRun = time.Hour

// target validates the flags and returns the relay to dial, with a read buffer of
// buffer bytes for each connection, for a run of the given length. It returns a
// usage error for invalid flags.
func (f *relayFlags) target(buffer int, length time.Duration) (*load.Target, error) {
	u, err := url.Parse(f.URL)
	switch {
	case err != nil || u.Host == "":
		return nil, load.Usagef("--url %q is not a URL such as ws://127.0.0.1:8080", f.URL)
	case u.Scheme != "ws" && u.Scheme != "wss" || strings.Trim(u.Path, "/") != "":
		return nil, load.Usagef("--url %s must be ws://host:port or wss://host:port, without a path", f.URL)
	case f.Timeout <= 0:
		return nil, load.Usagef("--timeout %s must be more than 0s", f.Timeout)
	case length < time.Second || length > maxRun:
		return nil, load.Usagef("--for %s must be from 1s to %s", length, maxRun)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), map[string]string{"ws": "80", "wss": "443"}[u.Scheme])
	}
	if !f.Own && !onLoopback(u.Hostname()) {
		return nil, load.Usagef("%s is not on loopback: load on a relay of another operator is an attack; add --i-own-this-relay if the relay is yours", u.Hostname())
	}
	if f.PID != 0 {
		if _, err := load.CPU(f.PID); err != nil {
			return nil, load.Usagef("--pid %d: %v", f.PID, err)
		}
	}
	t := &load.Target{Addr: u.Host, Buffer: buffer, Timeout: f.Timeout}
	if u.Scheme == "wss" {
		t.TLS = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: f.AnyCert, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

func onLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
