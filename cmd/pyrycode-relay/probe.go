package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// probe is the probe command. It runs a binary and phones, or only one of these two
// sides, in one process.
type probe struct {
	Relay    string        `of:"probe" default:"ws://127.0.0.1:8080" unit:"URL" help:"The relay: ws://host:port, or wss://host with TLS."`
	Timeout  time.Duration `of:"probe" default:"5s" unit:"time" help:"How long connecting may take, and each round trip."`
	Count    int           `of:"probe" default:"1" unit:"round trips" help:"Round trips of each phone."`
	Phones   int           `of:"probe" default:"1" unit:"phones" help:"Phones to open."`
	ServerID string        `of:"probe" name:"server-id" unit:"text" help:"Server-id to use; none: a random one, since a relay keeps it for a while."`
	ClaimKey string        `of:"probe" name:"claim-key" placeholder:"FILE" unit:"file" help:"Ed25519 key (PKCS #8, PEM) to which to bind the server-id. A file that does not exist is created with a new key. None: the server-id is bound to no key."`
	Role     string        `of:"probe" default:"both" values:"both,binary,phone" unit:"both, binary or phone" help:"Which ends to open. A binary alone answers phones until it is interrupted."`
	Hold     time.Duration `of:"probe" unit:"time" help:"How long to stay connected after the round trips."`
	Listen   string        `of:"probe" placeholder:"HOST:PORT" unit:"host:port" help:"Probe again and again, and show here how it went, for Prometheus. None: probe once."`
	Every    time.Duration `of:"probe" default:"30s" unit:"time" help:"With --listen, the time between two probes."`
}

// check returns all problems of the options.
func (p *probe) check() []config.Problem {
	var all problems
	u, err := url.Parse(p.Relay)
	all.unless(err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Host != "" && u.RawQuery == "" && u.Fragment == "",
		"relay", p.Relay, "must be a URL that begins with ws:// or wss:// and names a host", "for example ws://127.0.0.1:8080")
	all.unless(p.Timeout > 0, "timeout", p.Timeout, "must be more than 0s", "the default is 5s")
	all.unless(p.Count > 0, "count", p.Count, "must be 1 or more", "the default is 1")
	all.unless(p.Phones > 0, "phones", p.Phones, "must be 1 or more", "the default is 1")
	all.unless(len(p.ServerID) <= 256 && strings.IndexFunc(p.ServerID, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0,
		"server-id", p.ServerID, "must have at most 256 bytes and no control characters", "without it a random one is used")
	all.unless(p.Role != "phone" || p.ServerID != "",
		"server-id", p.ServerID, "must be given with --role phone", "it is the one that the binary has")
	if p.Listen != "" {
		_, port, err := net.SplitHostPort(p.Listen)
		n, perr := strconv.ParseUint(port, 10, 16)
		all.unless(err == nil && perr == nil && n <= 65535, "listen", p.Listen, "must be host:port with a port from 0 to 65535", "for example 127.0.0.1:9115")
		all.unless(p.Role == "both" && p.Hold == 0, "listen", p.Listen, "contradicts --role and --hold", "leave them out: each probe opens both ends and closes them")
	}
	all.unless(p.Every >= time.Second && p.Every <= time.Hour, "every", p.Every, "must be from 1s to 1h", "the default is 30s")
	all.unless(p.Hold >= 0, "hold", p.Hold, "must be 0s or more", "the default is 0s")
	return all
}

// run runs the probe. The error is one sentence for the user.
func (p *probe) run(ctx context.Context, c invocation) error {
	out := c.out
	if p.Listen != "" {
		return p.export(ctx, c.build, out)
	}
	id := p.id()
	d := p.dialer(id, c.build.Version)
	if err := p.bind(&d); err != nil {
		return err
	}

	var binary *peer
	if p.Role != "phone" {
		var err error
		if binary, err = d.binary(ctx); err != nil {
			return err
		}
		defer binary.close()
		go binary.echo()
		if p.Role == "binary" {
			if err := d.claimed(ctx, binary, out); err != nil {
				return err
			}
			fmt.Fprintf(out, "binary: holds server-id %s\n", id)
			if p.Hold == 0 {
				return stay(ctx, nil, binary)
			}
			return stay(ctx, time.After(p.Hold), binary)
		}
	}

	phones, times, err := p.roundTrips(ctx, d, binary)
	defer closeAll(&phones)
	if err != nil {
		return err
	}
	for _, ph := range phones {
		ph.discard()
	}
	fmt.Fprintln(out, report(times, len(phones), shownURL(d.base), id))
	if p.Hold == 0 {
		return nil
	}
	return stay(ctx, time.After(p.Hold), append(phones, binary)...)
}

// id returns the server-id to use.
func (p *probe) id() string {
	if p.ServerID != "" {
		return p.ServerID
	}
	var raw [8]byte
	rand.Read(raw[:])
	return "probe-" + hex.EncodeToString(raw[:])
}

func (p *probe) dialer(id, version string) dialer {
	return dialer{base: strings.TrimSuffix(p.Relay, "/"), server: id, version: version, timeout: p.Timeout, proxy: http.ProxyFromEnvironment}
}

// once runs one probe with both sides, which --listen repeats. notAfter is the end of the
// relay's certificate, or zero if none was seen.
func (p *probe) once(ctx context.Context, id, version string) (times []time.Duration, notAfter time.Time, err error) {
	d := p.dialer(id, version)
	if err := p.bind(&d); err != nil {
		return nil, notAfter, err
	}
	binary, err := d.binary(ctx)
	if err != nil {
		return nil, notAfter, err
	}
	defer binary.close()
	if t, ok := binary.conn.NetConn().(*tls.Conn); ok {
		notAfter = t.ConnectionState().PeerCertificates[0].NotAfter
	}
	go binary.echo()
	phones, times, err := p.roundTrips(ctx, d, binary)
	defer closeAll(&phones)
	return times, notAfter, err
}

func closeAll(phones *[]*peer) {
	for _, ph := range *phones {
		ph.close()
	}
}

// roundTrips opens the phones and makes p.Count round trips with each. With an error, it
// also returns the phones that are open and the times so far.
func (p *probe) roundTrips(ctx context.Context, d dialer, binary *peer) (phones []*peer, times []time.Duration, err error) {
	for i := range p.Phones {
		name := "the phone"
		if p.Phones > 1 {
			name = fmt.Sprintf("phone %d", i+1)
		}
		ph, first, err := d.phone(ctx, name, binary)
		if err != nil {
			return phones, times, err
		}
		phones = append(phones, ph)
		times = append(times, first)
	}
	for range p.Count - 1 {
		for _, ph := range phones {
			t, err := ph.roundTrip(ctx, p.Timeout, binary)
			if err != nil {
				return phones, times, err
			}
			times = append(times, t)
		}
	}
	return phones, times, nil
}

// report returns the result as a sentence for the user.
func report(times []time.Duration, phones int, base, id string) string {
	slices.Sort(times)
	s := "round trip " + ms(times[0])
	if n := len(times); n > 1 {
		s = fmt.Sprintf("%d round trips of %d phones: min %s, median %s, max %s",
			n, phones, ms(times[0]), ms(times[n/2]), ms(times[n-1]))
		s = strings.Replace(s, " of 1 phones", "", 1)
	}
	return fmt.Sprintf("%s (phone, relay, binary and back; %s, server-id %s)", s, base, id)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

// stay waits until over fires or ctx ends. If the connection of a peer ends before, it
// returns the reason.
func stay(ctx context.Context, over <-chan time.Time, peers ...*peer) error {
	ended := make(chan error, len(peers))
	left := make(chan struct{})
	defer close(left)
	for _, p := range peers {
		if p == nil {
			continue
		}
		go func() {
			select {
			case <-p.ended:
				ended <- p.why()
			case <-left:
			}
		}()
	}
	select {
	case err := <-ended:
		return err
	case <-over:
	case <-ctx.Done():
	}
	return nil
}

// errInterrupted means that a signal has ended the probe.
var errInterrupted = errors.New("interrupted")
