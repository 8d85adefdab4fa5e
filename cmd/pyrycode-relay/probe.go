package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// probe is the probe command: both ends of a relay in one process, or one of
// them.
type probe struct {
	Relay    string        `of:"probe" default:"ws://127.0.0.1:8080" unit:"URL" help:"The relay: ws://host:port, or wss://host with TLS."`
	Timeout  time.Duration `of:"probe" default:"5s" unit:"time" help:"How long connecting may take, and each round trip."`
	Count    int           `of:"probe" default:"1" unit:"round trips" help:"Round trips of each phone."`
	Phones   int           `of:"probe" default:"1" unit:"phones" help:"Phones to open."`
	ServerID string        `of:"probe" name:"server-id" default:"" unit:"text" help:"Server-id to use; none: a random one, since a relay keeps it for a while."`
	Role     string        `of:"probe" default:"both" unit:"both, binary or phone" help:"Which ends to open. A binary alone answers phones until it is interrupted."`
	Hold     time.Duration `of:"probe" default:"0s" unit:"time" help:"How long to stay connected after the round trips."`
}

// check returns all that is wrong with the options.
func (p *probe) check() []daemon.Problem {
	var all []daemon.Problem
	add := func(ok bool, option string, value any, rule, fix string) {
		if !ok {
			all = append(all, daemon.Problem{Option: option, Value: fmt.Sprint(value), Rule: rule, Fix: fix})
		}
	}
	u, err := url.Parse(p.Relay)
	add(err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Host != "" && u.RawQuery == "" && u.Fragment == "",
		"relay", p.Relay, "must be a URL that begins with ws:// or wss:// and names a host", "for example ws://127.0.0.1:8080")
	add(p.Timeout > 0, "timeout", p.Timeout, "must be more than 0s", "the default is 5s")
	add(p.Count > 0, "count", p.Count, "must be 1 or more", "the default is 1")
	add(p.Phones > 0, "phones", p.Phones, "must be 1 or more", "the default is 1")
	add(len(p.ServerID) <= 256 && strings.IndexFunc(p.ServerID, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0,
		"server-id", p.ServerID, "must have at most 256 bytes and no control characters", "without it a random one is used")
	add(p.Role == "both" || p.Role == "binary" || p.Role == "phone",
		"role", p.Role, "must be both, binary or phone", "the default is both")
	add(p.Role != "phone" || p.ServerID != "",
		"server-id", p.ServerID, "must be given with --role phone", "it is the one that the binary has")
	add(p.Hold >= 0, "hold", p.Hold, "must be 0s or more", "the default is 0s")
	return all
}

// run probes. The error is one sentence for the user.
func (p *probe) run(ctx context.Context, version string, out io.Writer) error {
	id := p.ServerID
	if id == "" {
		var raw [8]byte
		rand.Read(raw[:])
		id = "probe-" + hex.EncodeToString(raw[:])
	}
	d := dialer{base: strings.TrimSuffix(p.Relay, "/"), server: id, version: version, timeout: p.Timeout}

	var binary *peer
	if p.Role != "phone" {
		var err error
		if binary, err = d.binary(ctx); err != nil {
			return err
		}
		defer binary.close()
		go binary.echo()
		if p.Role == "binary" {
			fmt.Fprintf(out, "binary: holds server-id %s\n", id)
			if p.Hold == 0 {
				return stay(ctx, nil, binary)
			}
			return stay(ctx, time.After(p.Hold), binary)
		}
	}

	phones := make([]*peer, 0, p.Phones)
	defer func() {
		for _, ph := range phones {
			ph.close()
		}
	}()
	var times []time.Duration
	for i := range p.Phones {
		name := "the phone"
		if p.Phones > 1 {
			name = fmt.Sprintf("phone %d", i+1)
		}
		ph, first, err := d.phone(ctx, name, binary)
		if err != nil {
			return err
		}
		phones = append(phones, ph)
		times = append(times, first)
	}
	for range p.Count - 1 {
		for _, ph := range phones {
			t, err := ph.roundTrip(ctx, p.Timeout, binary)
			if err != nil {
				return err
			}
			times = append(times, t)
		}
	}
	for _, ph := range phones {
		ph.discard()
	}
	fmt.Fprintln(out, report(times, len(phones), d.base, id))
	if p.Hold == 0 {
		return nil
	}
	return stay(ctx, time.After(p.Hold), append(phones, binary)...)
}

// report is what the user sees.
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

// stay waits until the time is over or the user interrupts. If a peer's
// connection ends before, that is the error.
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

// errInterrupted is the end of a probe by a signal.
var errInterrupted = errors.New("interrupted")
