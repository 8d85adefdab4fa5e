package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

type soakCommand struct {
	Relay string        `default:"bin/pyrycode-relay" help:"The relay's program."`
	For   time.Duration `default:"60m" help:"Duration of the load; half a minute before it and up to two minutes after it come on top."`
	Every time.Duration `default:"10s" help:"Interval of the samples."`
	Out   string        `short:"o" default:"soak.svg" help:"File for the plot, an SVG; the samples are written next to it as .csv."`
	Fleet int           `default:"20" help:"Long-lived binaries, with 8 phones each. The other clients do not depend on it."`
	JSON  bool          `name:"json" help:"Print JSON, not a table."`
}

// soak is one run of the soak command.
type soak struct {
	to      *load.Target
	metrics string         // address of the private listener
	scrapes *history.Peers // all scrapes

	mu              sync.Mutex // guards all below
	rounds          map[string]int
	unexpected      []string // unexpected events, the first 20
	unexpectedCount int
}

// actor is one kind of client behaviour, repeated in rounds. Each worker of an
// actor has its own connections and closes all of them at the end of a round.
type actor struct {
	name    string
	workers int
	pause   time.Duration // average time between two rounds
	round   func(*round, context.Context) error
}

// round is one round of an actor: the soak, and the history of the round's clients, which
// share their server-ids with no others.
type round struct {
	*soak
	to    *load.Target
	peers *history.Peers
}

func (s *soak) newRound() *round {
	r := &round{soak: s, peers: newPeers()}
	r.to = &load.Target{Addr: s.to.Addr, Buffer: s.to.Buffer, Timeout: s.to.Timeout, Sources: s.to, Observe: r.observe}
	return r
}

// newPeers returns the history of clients of a relay with the default limits.
func newPeers() *history.Peers {
	p := history.NewPeers()
	p.Add(history.Event{Kind: history.NodeUp, Node: 1})
	p.Add(history.Event{Kind: history.LimitsBegan, Node: 1, Data: &history.Limits{Phones: 16, PhoneOutbox: 4 << 20}})
	return p
}

// observe records a connection in the history.
func (r *round) observe(path, server string) func(*wstest.Conn, *http.Response) {
	p := r.peers.Dial(1, history.Dial{Phone: path == "/v1/client", Server: server, Name: path})
	return func(c *wstest.Conn, answer *http.Response) {
		if answer != nil {
			p.Answered(answer.StatusCode, answer.Header.Get("Retry-After"))
		}
		if c != nil {
			c.Observe(p)
		}
	}
}

// wrong returns what the checkers find in the history of the round.
func (r *round) wrong() []history.Violation {
	return history.CheckPeers(r.peers.Read(history.Settings{Room: 1}))
}

// soakSample is the state of the relay at one time.
type soakSample struct {
	At         float64 `json:"at_seconds"`
	RSS        float64 `json:"rss_bytes"`
	Heap       float64 `json:"heap_bytes"` // allocated, garbage included
	NextGC     float64 `json:"heap_goal_bytes"`
	Goroutines float64 `json:"goroutines"`
	FDs        float64 `json:"open_files"`
	CPU        float64 `json:"cpu_seconds"`
	Binaries   float64 `json:"binaries"`
	Phones     float64 `json:"phones"`
	InGrace    float64 `json:"in_grace"`
}

func (c *soakCommand) run(e *load.Env) error {
	switch {
	case c.For < 10*time.Second || c.For > maxRun:
		return load.Usagef("--for %s must be from 10s to %s", c.For, maxRun)
	case c.Every < time.Second || c.Every > c.For/4:
		return load.Usagef("--every %s must be from 1s to a quarter of --for", c.Every)
	case c.Fleet < 1:
		return load.Usagef("--fleet must be 1 or more")
	}
	if err := load.EnoughFiles(20*c.Fleet + 500); err != nil {
		return err
	}
	if err := load.IsRelay(c.Relay); err != nil {
		return err
	}
	cmd := exec.Command(c.Relay, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
	relay, err := load.StartCommand(e.Ctx, "relay", cmd, io.Discard, load.StartTimeout)
	if err != nil {
		return err
	}
	defer relay.End()
	s := &soak{
		to:      &load.Target{Addr: relay.Addr, Buffer: load.SmallBuffer, Timeout: time.Minute},
		metrics: relay.Private, rounds: make(map[string]int), scrapes: newPeers(),
	}
	r, err := s.run(e, c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, r.svg(), 0o644); err != nil {
		return err
	}
	if err := r.writeCSV(strings.TrimSuffix(c.Out, ".svg") + ".csv"); err != nil {
		return err
	}
	if err := e.Print(c.JSON, r); err != nil {
		return err
	}
	if len(r.Wrong) > 0 {
		return fmt.Errorf("%d checks failed", len(r.Wrong))
	}
	return nil
}

// run applies the load, takes samples, removes the load, and judges the result.
func (s *soak) run(e *load.Env, c *soakCommand) (*soakReport, error) {
	r := &soakReport{}
	// The first connections allocate permanent resources, such as pools and
	// runtime threads. The idle relay after them is the baseline.
	for range 3 {
		if err := s.newRound().visit(e.Ctx); err != nil {
			return nil, load.Hint(err)
		}
	}
	var err error
	if r.Before, err = s.waitIdle(e.Ctx); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(e.Ctx)
	defer stop()
	var working sync.WaitGroup
	for _, a := range actors(c.Fleet) {
		for range a.workers {
			working.Go(func() { s.work(ctx, a) })
		}
	}
	begun := time.Now()
	mine, _ := load.CPU(os.Getpid())
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for time.Since(begun) < c.For {
		select {
		case <-ctx.Done():
			return nil, load.ErrInterrupted
		case <-tick.C:
		}
		l, err := s.sample()
		if err != nil {
			return nil, err
		}
		l.At = time.Since(begun).Seconds()
		r.Samples = append(r.Samples, l)
		if err := s.checkState(); err != nil {
			s.noteUnexpected(err.Error())
		}
		e.Progress.Show("soak: %.0f of %.0f s, %.0f binaries, %.0f phones, %.1f MiB resident, %d unexpected",
			l.At, c.For.Seconds(), l.Binaries, l.Phones, l.RSS/(1<<20), s.countUnexpected())
	}
	now, _ := load.CPU(os.Getpid())
	r.Generator = (now - mine).Seconds() / time.Since(begun).Seconds()
	stop()
	working.Wait()
	if r.After, err = s.waitIdle(e.Ctx); err != nil {
		return nil, err
	}
	for _, v := range history.CheckPeers(s.scrapes.Read(history.Settings{Room: 1})) {
		s.noteUnexpected("scrapes: " + v.Invariant + ": " + v.Detail)
	}
	s.mu.Lock()
	r.Rounds, r.Unexpected, r.UnexpectedCount = s.rounds, s.unexpected, s.unexpectedCount
	s.mu.Unlock()
	r.judge()
	return r, nil
}

// work runs one worker of an actor until ctx ends.
func (s *soak) work(ctx context.Context, a actor) {
	load.Wait(ctx, rand.N(10*time.Second)) // the workers start at different times
	for ctx.Err() == nil {
		r := s.newRound()
		err := a.round(r, ctx)
		if ctx.Err() != nil {
			return // the round was interrupted
		}
		if err != nil {
			s.noteUnexpected(a.name + ": " + err.Error())
		}
		for _, v := range r.wrong() {
			s.noteUnexpected(a.name + ": history: " + v.Invariant + ": " + v.Detail)
		}
		s.mu.Lock()
		s.rounds[a.name]++
		s.mu.Unlock()
		load.Wait(ctx, a.pause/2+rand.N(a.pause))
	}
}

// noteUnexpected records an event that must not occur.
func (s *soak) noteUnexpected(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unexpectedCount++
	if len(s.unexpected) < 20 {
		s.unexpected = append(s.unexpected, what)
	}
}

func (s *soak) countUnexpected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unexpectedCount
}

// sample reads the relay's metrics.
func (s *soak) sample() (l soakSample, err error) {
	return l, load.Scrape("http://"+s.metrics+"/metrics", map[string]*float64{
		"process_resident_memory_bytes": &l.RSS, "go_memstats_heap_alloc_bytes": &l.Heap, "go_memstats_next_gc_bytes": &l.NextGC,
		"go_goroutines": &l.Goroutines, "process_open_fds": &l.FDs, "process_cpu_seconds_total": &l.CPU,
		"pyrycode_relay_connected_binaries": &l.Binaries, "pyrycode_relay_connected_phones": &l.Phones, "pyrycode_relay_binaries_in_grace": &l.InGrace,
	})
}

// checkState returns an error if the relay's gauges, maps and sockets disagree.
func (s *soak) checkState() error {
	page, err := load.Page("http://" + s.metrics + "/metrics")
	if err != nil {
		return err
	}
	s.scrapes.Add(history.Event{Kind: history.Scraped, Node: 1, Data: history.ParseMetrics(page)})
	_, err = load.Page("http://" + s.metrics + "/debug/check")
	return err
}

// idleIn bounds the time until the relay is empty after all clients have left: a
// grace period, half a heartbeat, and the two minutes of a forced collection.
const idleIn = 3 * time.Minute

// waitIdle waits until no client is connected and the numbers of goroutines and
// files no longer decrease. It returns the last sample.
func (s *soak) waitIdle(ctx context.Context) (l soakSample, err error) {
	var recent []soakSample
	err = load.Until(ctx, time.Second, idleIn, func() (string, error) {
		if l, err = s.sample(); err != nil {
			return "", err
		}
		recent = append(recent, l)
		n := len(recent)
		if n >= 6 && !slices.ContainsFunc(recent[n-6:], func(o soakSample) bool {
			return o.Goroutines > l.Goroutines || o.FDs > l.FDs || o.Binaries+o.Phones+o.InGrace > 0
		}) {
			return "", s.checkState()
		}
		return fmt.Sprintf("the relay is not idle although all clients have left: %+v", l), nil
	})
	return l, err
}

// writeCSV writes the samples.
func (r *soakReport) writeCSV(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := csv.NewWriter(f)
	_ = w.Write([]string{"seconds", "rss_bytes", "heap_bytes", "heap_goal_bytes", "goroutines", "open_files", "cpu_seconds", "binaries", "phones", "in_grace"})
	for _, l := range r.Samples {
		var row []string
		for _, v := range []float64{l.At, l.RSS, l.Heap, l.NextGC, l.Goroutines, l.FDs, l.CPU, l.Binaries, l.Phones, l.InGrace} {
			row = append(row, strconv.FormatFloat(v, 'f', -1, 64))
		}
		_ = w.Write(row)
	}
	w.Flush()
	return w.Error()
}
