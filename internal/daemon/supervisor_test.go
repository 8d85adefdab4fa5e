package daemon

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// chanLock is a lock for which goroutines wait in a way that synctest recognizes.
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
		watchdog := s.watch(r)
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
		after(time.Minute, 12+1+12) // the one that waited, and those of a minute
		watchdog.Stop()
		after(time.Hour, 12+1+12)
	})
}

// states records the states that the supervisor gets.
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

// handOver returns a copy of a listener's socket, as a supervisor passes it.
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
		return startEnv(t, t.Context(), func(c *config.Config) { c.Listen = "127.0.0.1:1" }, // must not matter
			Env{Supervisor: Supervisor{Listeners: map[string][]net.Listener{SocketPublic: {handOver(t, kept)}}, Notify: told.notify}})
	}
	d := run()
	if d.public != kept.Addr().String() {
		t.Fatalf("it listens on %s; want the supervisor's %s", d.public, kept.Addr())
	}
	_, phone := connected(d)
	d.signals <- syscall.SIGTERM
	_ = phone.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := phone.ReadMessage(); !wstest.IsClose(err, 1001) {
		t.Errorf("phone: %v; want close 1001", err)
	}
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", kept.Addr().String()) // no process serves now
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
		t.Errorf("a client that came between two processes gets %q, %v; want 200", answer, err)
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
	_, err = newProcess(t.Context(), config.Default(), Env{Log: new(syncBuffer), Supervisor: Supervisor{Listeners: map[string][]net.Listener{SocketPublic: {ln}}}})
	if e, ok := errors.AsType[*config.Error](err); !ok || e.Problems[0].Option != "listen" {
		t.Errorf("a public socket without TLS: %v; want a problem of --listen", err)
	}
}

// A peer that is told to leave redials within a millisecond. The process that told
// it must not accept that connection, since it could only refuse it.
func TestTheListenerClosesBeforeTheFirstConnectionIsTold(t *testing.T) {
	for _, spread := range []time.Duration{0, 30 * time.Minute} {
		d := startEnv(t, t.Context(), func(c *config.Config) { c.Drain, c.DrainSpread = time.Hour, spread }, Env{})
		var told sync.WaitGroup
		first := make(chan struct{})
		once := sync.OnceFunc(func() { close(first) })
		for i := range 20 {
			c, _, err := wstest.Dial("ws://"+d.public+"/v1/server", http.Header{
				"User-Agent": {"t"}, "X-Pyrycode-Server": {strconv.Itoa(i)}, "X-Pyrycode-Version": {"1"}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			told.Go(func() {
				_, _, err := c.ReadMessage()
				if !wstest.IsClose(err, 1001, 1012) {
					return // cut by the second signal
				}
				defer once()
				if again, err := net.Dial("tcp", d.public); err == nil {
					again.Close()
					t.Errorf("spread %v: a redial after the close is accepted", spread)
				}
			})
		}
		d.until("all binaries are counted", func() bool { return d.p.relay.Counts().Binaries == 20 })
		d.signals <- syscall.SIGTERM
		<-first
		d.signals <- syscall.SIGTERM
		if err := d.end(); err != nil {
			t.Error(err)
		}
		told.Wait()
	}
}

func TestSeveralSocketsOfOneNameAreAllServed(t *testing.T) {
	var sockets []net.Listener
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, ln)
	}
	d := startEnv(t, t.Context(), nil, Env{Supervisor: Supervisor{Listeners: map[string][]net.Listener{SocketPublic: sockets}}})
	for _, ln := range sockets {
		if status, _, _ := get(t, "http://"+ln.Addr().String()+"/healthz"); status != http.StatusOK {
			t.Errorf("%s answers %d; want 200", ln.Addr(), status)
		}
	}
	if want := "listen=" + sockets[0].Addr().String() + "," + sockets[1].Addr().String() + " "; !strings.Contains(d.log.String(), want) {
		t.Errorf("no %q in the log:\n%s", want, d.log)
	}
	d.signals <- syscall.SIGTERM
	if err := d.end(); err != nil {
		t.Error(err)
	}
}

func TestOfSeveralSocketsTheMostExposedIsJudged(t *testing.T) {
	var sockets []net.Listener
	for _, at := range []string{"127.0.0.1:0", "0.0.0.0:0", "127.0.0.1:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		sockets = append(sockets, ln)
	}
	c := Supervisor{Listeners: map[string][]net.Listener{SocketPrivate: sockets}}.adopt(config.Default())
	if want := sockets[1].Addr().String(); c.MetricsListen != want {
		t.Errorf("--metrics-listen is judged as %s; want %s", c.MetricsListen, want)
	}
}

// Only --domain uses the http socket. Without --domain, serve runs, closes that
// socket and says so once.
func TestAnHTTPSocketWithoutADomainIsClosedWithAWarning(t *testing.T) {
	kept, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	given := handOver(t, kept)
	d := startEnv(t, t.Context(), nil, Env{Supervisor: Supervisor{Listeners: map[string][]net.Listener{SocketHTTP: {given}}}})
	const want = `the supervisor's socket \"http\" is not used without --domain`
	if n := strings.Count(d.log.String(), want); n != 1 {
		t.Errorf("the log has the warning %d times; want once:\n%s", n, d.log)
	}
	if _, err := given.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the socket: %v; want it closed", err)
	}
	c := config.Default()
	c.Domain = "relay.example.com"
	if got := (Supervisor{Listeners: map[string][]net.Listener{SocketHTTP: {kept}}}).adopt(c).HTTPListen; got != kept.Addr().String() {
		t.Errorf("with --domain, --http-listen is %s; want %s", got, kept.Addr())
	}
}

func TestTheConfigurationNamesTheSupervisorsSockets(t *testing.T) {
	kept, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	d := startEnv(t, t.Context(), nil, Env{Origins: config.Origins{"listen": {Flag: true}},
		Supervisor: Supervisor{Listeners: map[string][]net.Listener{SocketPublic: {handOver(t, kept)}}}})
	_, _, page := get(t, "http://"+d.private+"/debug/config")
	want := `"name": "listen", "value": "` + kept.Addr().String() + `", "from": "supervisor"`
	if flat := strings.Join(strings.Fields(page), " "); !strings.Contains(flat, want) {
		t.Errorf("/debug/config has no %s:\n%s", want, page)
	}
}
