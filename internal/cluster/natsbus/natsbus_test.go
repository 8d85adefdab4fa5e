package natsbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// ports returns n addresses on loopback that were free a moment ago.
func ports(t *testing.T, n int) (all []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		all = append(all, ln.Addr().String())
	}
	return all
}

// three runs three servers and a connection to each.
func three(t *testing.T) (servers []*Server, conns []*Conn) {
	t.Helper()
	at := ports(t, 3)
	for i := range at {
		s, err := Serve(t.Context(), ServerConfig{Name: fmt.Sprintf("n%d", i), Listen: at[i], Peers: at, Secret: "s", Err: func(string) {}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		servers = append(servers, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, s := range servers {
		c, err := Dial(ctx, Config{Embedded: s})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		conns = append(conns, c)
	}
	return servers, conns
}

func TestThreeServersPassTheConformanceSuite(t *testing.T) {
	servers, conns := three(t)
	clustertest.TestBus(t, conns[0], conns[1])
	if err := conns[0].Answers(); err != nil {
		t.Errorf("the directory does not answer: %v", err)
	}
	leaders := 0
	for _, s := range servers {
		if s.Leads(DefaultBucket) {
			leaders++
		}
	}
	if leaders != 1 {
		t.Errorf("%d servers lead the directory; want 1", leaders)
	}
	asksTheLeader(t, conns[0], conns[1])
	servers[1].Close()
	servers[2].Close()
	if conns[0].Answers() == nil {
		t.Error("the directory answers though two of three servers are gone")
	}
}

// A read that any replica may answer can go to a frozen replica, and then gets no answer.
func asksTheLeader(t *testing.T, c, listens *Conn) {
	t.Helper()
	any, err := listens.nc.SubscribeSync("$JS.API.DIRECT.>")
	if err != nil {
		t.Fatal(err)
	}
	leader, err := listens.nc.SubscribeSync("$JS.API.STREAM.MSG.GET.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := listens.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(15 * time.Second); ; { // until the other server knows of the subscriptions
		_, _ = c.Create("c.asks", []byte("1"), 30*time.Second)
		if _, err := c.Create("c.asks", []byte("2"), 30*time.Second); !errors.Is(err, cluster.ErrConflict) {
			t.Fatalf("a second create: %v", err)
		}
		if e, err := c.Get("c.asks"); err != nil || string(e.Value) != "1" {
			t.Fatalf("get: %q, %v", e.Value, err)
		}
		if _, err := leader.NextMsg(50 * time.Millisecond); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the leader was not asked")
		}
	}
	if m, err := any.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("any replica was asked: %s", m.Subject)
	}
}

// Two relays use real servers. A phone reaches its binary through another node. When a
// server ends, only the connections through it are lost.
func TestRelaysContinueWhenOneServerEnds(t *testing.T) {
	servers, conns := three(t)
	memory := clustertest.NewMemory(nil)
	t.Cleanup(memory.Close)
	var urls []string
	for _, c := range conns {
		n, err := cluster.New(cluster.Config{Directory: memory.Port(), Bus: c})
		if err != nil {
			t.Fatal(err)
		}
		r, err := relay.New(relay.Config{Cluster: n})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(r.Handler())
		t.Cleanup(func() {
			done := make(chan struct{})
			r.Drain(0, func() { close(done) })
			n.Drain()
			<-done
			n.Close()
			srv.Close()
		})
		urls = append(urls, "ws"+strings.TrimPrefix(srv.URL, "http"))
	}
	dial := func(i int, path, id string) *wstest.Conn {
		t.Helper()
		h := http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, wire.HeaderVersion: {"1"}}
		for end := time.Now().Add(40 * time.Second); ; {
			c, resp, err := wstest.Dial(urls[i]+path, h)
			if err == nil {
				t.Cleanup(func() { c.Close() })
				return c
			}
			if resp == nil || resp.StatusCode != http.StatusServiceUnavailable || time.Now().After(end) {
				t.Fatalf("dial %s: %v", path, err)
			}
			time.Sleep(100 * time.Millisecond) // the backoff of a client
		}
	}
	say := func(from, to *wstest.Conn) {
		t.Helper()
		if err := from.WriteMessage(wstest.Text, []byte(`"hello"`)); err != nil {
			t.Fatal(err)
		}
		_ = to.SetReadDeadline(time.Now().Add(15 * time.Second))
		if _, b, err := to.ReadMessage(); err != nil || !strings.Contains(string(b), `"frame":"hello"`) {
			t.Fatalf("received %s, %v", b, err)
		}
	}
	bin := dial(0, "/v1/server", "s1")
	ph := dial(1, "/v1/client", "s1")
	say(ph, bin)
	servers[2].Close()
	say(ph, bin)                         // neither of them is connected to the server that ended
	other := dial(1, "/v1/server", "s2") // succeeds once a new leader is chosen, if the server that ended was the leader
	say(dial(0, "/v1/client", "s2"), other)
}

// The start of a relay can be interrupted at each point where it waits for NATS.
func TestDialEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and no program answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := ports(t, 1)[0]
	for name, urls := range map[string]string{
		"a server that says nothing":     "nats://" + silent.Addr().String(),
		"a TLS server that says nothing": "tls://" + silent.Addr().String(),
		"a closed port":                  "nats://" + closed,
		"several":                        "nats://" + closed + ",nats://" + silent.Addr().String() + ",nats://" + silent.Addr().String(),
		"a name that is not there":       "nats://unknown.invalid:4222",
	} {
		t.Run(name, func(t *testing.T) {
			interrupted := errors.New("interrupted")
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() {
				c, err := Dial(ctx, Config{URLs: urls})
				if err == nil {
					c.Close()
				}
				ended <- err
			}()
			select {
			case err := <-ended:
				t.Fatalf("Dial ended before its context: %v", err)
			case <-time.After(300 * time.Millisecond): // Dial is inside an attempt or between two
			}
			cancel(interrupted)
			begun := time.Now()
			if err := <-ended; err == nil {
				t.Error("Dial() = nil error")
			}
			if took := time.Since(begun); took > callTimeout/2 {
				t.Errorf("Dial ended %v after its context; want it to return immediately", took)
			}
		})
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0") // so the server is never ready
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at := taken.Addr().String()
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	cancel(interrupted)
	if _, err := Serve(ctx, ServerConfig{Name: "n", Listen: at, Peers: []string{at}, Err: func(string) {}}); !errors.Is(err, interrupted) {
		t.Errorf("Serve() = %v; want the cause of the context's end", err)
	}
}
