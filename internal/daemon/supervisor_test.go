package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// chanLock is a lock that a synctest bubble can see somebody wait for.
type chanLock chan struct{}

func (l chanLock) Lock()   { l <- struct{}{} }
func (l chanLock) Unlock() { <-l }

func TestAStuckRegistryGivesNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := make(map[string]chanLock)
		r, err := relay.New(relay.Config{Runtime: relay.Runtime{NewLock: func(name string) sync.Locker {
			locks[name] = make(chanLock, 1)
			return locks[name]
		}}})
		if err != nil {
			t.Fatal(err)
		}
		signs := 0
		s := Supervisor{Watchdog: 10 * time.Second, Notify: func(state string) {
			if want := "WATCHDOG=1\nSTATUS=binaries 0, phones 0, in grace 0"; state != want {
				t.Errorf("told %q; want %q", state, want)
			}
			signs++
		}}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { s.watch(ctx, r); close(over) }()
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if signs != want {
				t.Errorf("%d signs of life; want %d", signs, want)
			}
		}
		after(time.Minute, 12)
		locks["registry"].Lock()
		after(time.Hour, 12)
		locks["registry"].Unlock()
		after(time.Minute, 12+2+12) // the one that waited, a tick that did, and those of a minute
		cancel()
		<-over
	})
}

// states is what a supervisor was told.
type states struct {
	mu  sync.Mutex
	all []string
}

func (s *states) notify(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, _, _ := strings.Cut(state, "\n")
	s.all = append(s.all, first)
}

func (s *states) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all, " ")
}

// handOver is a copy of a listener's socket, as a supervisor hands it over.
func handOver(t *testing.T, ln net.Listener) net.Listener {
	t.Helper()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	given, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return given
}

func TestARestartOnASocketOfTheSupervisorRefusesNobody(t *testing.T) {
	kept, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	told := new(states)
	run := func() *running {
		return startEnv(t, t.Context(), func(c *Config) { c.Listen = "127.0.0.1:1" }, // must not matter
			Env{Supervisor: Supervisor{Listeners: map[string]net.Listener{SocketPublic: handOver(t, kept)}, Notify: told.notify}})
	}
	d := run()
	if d.public != kept.Addr().String() {
		t.Fatalf("it listens on %s; want the supervisor's %s", d.public, kept.Addr())
	}
	_, phone := connected(d)
	d.signals <- syscall.SIGTERM
	_ = phone.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := phone.ReadMessage(); !websocket.IsCloseError(err, 1001) {
		t.Errorf("phone: %v; want close 1001", err)
	}
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", kept.Addr().String()) // nobody serves now
	if err != nil {
		t.Fatalf("between two processes: %v", err)
	}
	defer c.Close()
	run()
	if _, err := c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, 12)
	if _, err := c.Read(answer); err != nil || string(answer) != "HTTP/1.1 200" {
		t.Errorf("who came between two processes gets %q, %v; want 200", answer, err)
	}
	if got, want := told.String(), "READY=1 STOPPING=1 READY=1"; got != want {
		t.Errorf("the supervisor was told %q; want %q", got, want)
	}
}

func TestTheSupervisorsSocketIsJudgedAsAnyOther(t *testing.T) {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = newProcess(DefaultConfig(), Env{Log: new(syncBuffer), Supervisor: Supervisor{Listeners: map[string]net.Listener{SocketPublic: ln}}})
	if e, ok := errors.AsType[*ConfigError](err); !ok || e.Problems[0].Option != "listen" {
		t.Errorf("a public socket without TLS: %v; want a problem of --listen", err)
	}
}

func TestASpreadDrainAnswersNewcomersToItsEnd(t *testing.T) {
	d := startEnv(t, t.Context(), func(c *Config) { c.Drain, c.DrainSpread = time.Hour, 30*time.Minute }, Env{})
	a, _, err := websocket.DefaultDialer.Dial("ws://"+d.public+"/v1/server", http.Header{"User-Agent": {"t"}, "X-Pyrycode-Server": {"a"}, "X-Pyrycode-Version": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	connected2, _, err := websocket.DefaultDialer.Dial("ws://"+d.public+"/v1/server", http.Header{"User-Agent": {"t"}, "X-Pyrycode-Server": {"b"}, "X-Pyrycode-Version": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer connected2.Close()
	d.until("both binaries are counted", func() bool { return d.p.relay.Counts().Binaries == 2 })
	for _, c := range []*websocket.Conn{a, connected2} {
		go func() { _, _, _ = c.ReadMessage() }() // answers a close
	}
	d.signals <- syscall.SIGTERM
	d.until("one of two is closed", func() bool { return d.p.relay.Counts().Binaries == 1 })
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+d.public+"/v1/client", http.Header{"User-Agent": {"t"}, "X-Pyrycode-Server": {"a"}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a newcomer gets %v, %v; want 503 and Retry-After", resp, err)
	}
	d.signals <- syscall.SIGTERM
	if err := d.end(); err != nil {
		t.Error(err)
	}
}
