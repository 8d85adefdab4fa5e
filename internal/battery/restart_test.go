package battery

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// A deployed daemon redials 1 ms after a close frame. A dial that fails then
// costs it 1 s, and 30 s if its connection was young. So a relay with a socket
// that outlives the process must not accept, on its way out, a redial that it can
// only refuse.
func TestRow31ARestartWithAKeptSocketLosesNoRedial(t *testing.T) {
	daemons, busy := dose(100, 50), dose(3, 10)
	for _, spread := range []time.Duration{0, 300 * time.Millisecond} {
		restarts := dose(10, 40)
		if spread > 0 {
			restarts = dose(2, 20)
		}
		t.Run(fmt.Sprintf("spread %s", spread), func(t *testing.T) {
			given(t, "spread %s: %d restarts under %d daemons, %d of them busy", spread, restarts, daemons, busy)
			h := startChild(t, nil).pair() // in a relay that goes on
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			socket, err := ln.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			set := func(c *config.Config) { c.DrainSpread = spread }

			c := startChildOn(t, socket, set)
			r := redialers{n: node{t: t, public: c.public, peers: newPeers(new(testConfig()))}, ending: make(chan struct{}), failures: make(map[string]int)}
			defer func() { r.end(); r.n.judge() }()
			for i := range daemons {
				id := fmt.Sprint("daemon-", i)
				r.tasks.Go(func() { r.keep("/v1/server", id, time.Millisecond, r.echo) })
				if i < busy {
					r.tasks.Go(func() { r.keep("/v1/client", id, 20*time.Millisecond, r.talk) })
				}
			}
			var longest time.Duration
			for range restarts {
				c.until("all daemons and phones are there", func() bool { return r.talking.Load() == int64(busy) && c.binaries() == daemons })
				begun := time.Now()
				if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := c.cmd.Wait(); err != nil {
					t.Fatalf("exit: %v; want 0", err)
				}
				c = startChildOn(t, socket, set)
				c.until("all daemons are back", func() bool { return c.binaries() == daemons })
				longest = max(longest, time.Since(begun))
			}
			c.connected(daemons, busy)
			if got, want := r.dials.Load(), int64(daemons*(1+restarts)); got != want || len(r.failed()) > 0 {
				t.Errorf("%d dials of daemons, want %d: each once at first, and once for each restart; of daemons and phones were lost: %v",
					got, want, strings.Join(r.failed(), ", "))
			}
			t.Logf("%d daemons were back after %d ms at most, of %d redials %d were lost", daemons, longest.Milliseconds(), daemons*restarts, r.dials.Load()-int64(daemons*(1+restarts)))
			r.end()
			h.check()
		})
	}
}

// redialers are clients that redial whenever their connection ends.
type redialers struct {
	n       node
	tasks   sync.WaitGroup
	dials   atomic.Int64 // of daemons
	talking atomic.Int64 // phones that have had a round trip over their connection

	once   sync.Once
	ending chan struct{} // closed by end

	mu       sync.Mutex // guards failures
	failures map[string]int
}

// keep dials, serves the connection until it ends, and dials again after pause.
func (r *redialers) keep(path, id string, pause time.Duration, serve func(*wstest.Conn) error) {
	for {
		if path == "/v1/server" {
			r.dials.Add(1)
		}
		conn, resp, err := r.n.dial(path, id, "")
		if err != nil {
			if resp != nil {
				err = fmt.Errorf("HTTP %d", resp.StatusCode)
			}
			r.fail(path, "dial", err)
		} else {
			ended := make(chan struct{})
			r.tasks.Go(func() {
				select {
				case <-r.ending:
				case <-ended:
				}
				conn.Close()
			})
			err = serve(conn)
			close(ended)
			// 4404: the phone came before its binary.
			if !wstest.IsClose(err, 1001, 1012, 4404) {
				r.fail(path, "end", err)
			}
		}
		select {
		case <-r.ending:
			return
		case <-time.After(pause):
		}
	}
}

// fail counts a failure, unless the end of the test is its reason. Of a network
// error only the last part counts, which has no port in it.
func (r *redialers) fail(path, what string, err error) {
	select {
	case <-r.ending:
		return
	default:
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures[fmt.Sprintf("%s %s: %v", path, what, err)]++
}

func (r *redialers) failed() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(r.failures)) {
		all = append(all, fmt.Sprintf("%d × %s", r.failures[what], what))
	}
	return all
}

// echo sends back what comes.
func (r *redialers) echo(c *wstest.Conn) error {
	for {
		_, m, err := c.ReadMessage()
		if err == nil {
			err = c.WriteMessage(wstest.Text, m)
		}
		if err != nil {
			return closeOf(c, err)
		}
	}
}

// talk makes one round trip after the other. It counts as talking from the first
// on.
func (r *redialers) talk(c *wstest.Conn) error {
	for i := 0; ; i++ {
		want := fmt.Sprintf(`{"n":%d}`, i)
		err := c.WriteMessage(wstest.Text, []byte(want))
		var got []byte
		if err == nil {
			_, got, err = c.ReadMessage()
		}
		if err == nil && string(got) != want {
			err = fmt.Errorf("got %s; want %s", got, want)
		}
		if err != nil {
			if i > 0 {
				r.talking.Add(-1)
			}
			return closeOf(c, err)
		}
		if i == 0 {
			r.talking.Add(1)
		}
		time.Sleep(time.Millisecond)
	}
}

// closeOf returns the close frame that explains why a write failed with err, if
// one has come, else err.
func closeOf(c *wstest.Conn, err error) error {
	for {
		if _, ok := errors.AsType[*wstest.CloseError](err); ok {
			return err
		}
		if _, _, next := c.ReadMessage(); next != nil {
			if _, ok := errors.AsType[*wstest.CloseError](next); ok {
				return next
			}
			return err
		}
	}
}

// end ends all clients.
func (r *redialers) end() {
	r.once.Do(func() { close(r.ending) })
	r.tasks.Wait()
}
