package front

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

// hello is what a TLS handshake begins with.
const hello = "\x16"

// table is a pending with so many turns.
func table(t *testing.T, turns int) *pending {
	t.Helper()
	p, err := newPending(relay.Runtime{}, Limits{Pending: 100, PendingPerAddress: 100}, handshakesAtATime(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	p.turns = turns
	return p
}

// connect enters a connection from an address, and returns it with its peer.
func connect(t *testing.T, p *pending, from string) (*conn, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	c := newConn(ours, p)
	if out, reason := p.enter(c, netip.MustParseAddr(from)); out != nil {
		t.Fatalf("%s gets no place, or another one's: %s", from, reason)
	}
	return c, theirs
}

// Of two handshakes that have something to compute one waits, until the other
// writes, reads on, is closed, or has come to its end.
// A connection with a turn lets everything that is ready run before it computes, because
// the end of the turn before has woken it to run next.
func TestATurnBeginsAfterWhatIsReady(t *testing.T) {
	yields := 0
	sched.OnYield(func() { yields++ })
	defer sched.OnYield(func() {})
	synctest.Test(t, func(t *testing.T) {
		c, peer := connect(t, table(t, 1), "192.0.2.1")
		go io.WriteString(peer, hello)
		if _, err := c.Read(make([]byte, 1)); err != nil || yields != 1 {
			t.Errorf("%d yields before a handshake computes, %v; want one", yields, err)
		}
		c.Close()
	})
}

func TestHandshakesTakeTurns(t *testing.T) {
	for _, tt := range []struct {
		what string
		do   func(*conn)
	}{
		{"writes", func(c *conn) { _, _ = c.Write([]byte("x")) }},
		{"reads on", func(c *conn) { go c.Read(make([]byte, 1)) }},
		{"is closed", func(c *conn) { c.Close() }},
		{"has ended", func(c *conn) { _ = c.SetReadDeadline(time.Time{}) }},
		{"has a request", func(c *conn) { c.table.state(c, http.StateActive) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := table(t, 1)
				first, peer := connect(t, p, "192.0.2.1")
				second, other := connect(t, p, "192.0.2.2")
				go io.WriteString(peer, hello)
				go io.WriteString(other, hello)
				if _, err := first.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				has := make(chan error, 1)
				go func() {
					_, err := second.Read(make([]byte, 1))
					has <- err
				}()
				synctest.Wait()
				if len(has) > 0 {
					t.Fatal("two compute at a time; want one")
				}
				go io.Copy(io.Discard, peer)
				tt.do(first)
				if err := <-has; err != nil {
					t.Error(err)
				}
				p.state(second, http.StateActive)
				go io.WriteString(other, "c")
				if _, err := second.Read(make([]byte, 1)); err != nil || p.turns != 1 {
					t.Errorf("behind its handshake %d turns are free, %v; want one", p.turns, err)
				}
			})
		})
	}
}

// Networks have turns one after the other, however many connections each has and
// in whatever order they came. Within a network the first one to come is first.
func TestNetworksTakeTurns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		froms []string // in order of arrival
		comes string   // another one comes from here whenever one from here has had a turn
		want  string   // the order of turns, by index into froms; x: one that came later
	}{
		{"in order of arrival", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1"}, "", "012"},
		{"many and few", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"}, "", "03142"},
		{"few that come again", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"}, "192.0.2.2", "031x2x"},
		{"a /64 is one", []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"}, "", "0312"},
		{"a /56 is two", []string{"2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1", "192.0.2.1"}, "", "01423"},
		{"a /48 is four", []string{"2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:100::1", "2001:db8:0:101::1", "2001:db8:0:200::1", "192.0.2.1"}, "", "012354"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := table(t, 0)
				p.handOut(t, tt.froms, tt.comes, tt.want)
			})
		})
	}
}

// handOut lets handshakes wait and gives one turn after the other.
func (p *pending) handOut(t *testing.T, froms []string, comes, want string) {
	order := make(chan byte, 100)
	wait := func(from string, name byte) {
		c, peer := connect(t, p, from)
		go io.WriteString(peer, hello)
		go func() {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				order <- name
				if from == comes {
					return // the caller closes it
				}
				c.Close()
			}
		}()
		synctest.Wait()
	}
	for i, from := range froms {
		wait(from, '0'+byte(i))
	}
	holder, _ := connect(t, p, "198.51.100.1")
	holder.hasTurn = true
	holder.endTurn()
	synctest.Wait()
	got := ""
	for len(order) > 0 && len(got) < len(want) {
		name := <-order
		got += string(name)
		if name == 'x' || froms[name-'0'] == comes {
			wait(comes, 'x') // before the one that has the turn ends
			for _, c := range p.all {
				if c.hasTurn {
					c.Close()
					p.leave(c)
					break
				}
			}
			synctest.Wait()
		}
	}
	if got != want {
		t.Errorf("turns in the order %s; want %s", got, want)
	}
	for _, c := range slices.Clone(p.all) {
		c.Close()
	}
}

// A handshake that is cut while it waits for its turn, or at the end of
// its time, takes none with it.
func TestAHandshakeCutBeforeItsTurnKeepsNone(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := table(t, 1)
			first, peer := connect(t, p, "192.0.2.1")
			go io.WriteString(peer, hello)
			if _, err := first.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			c, theirs := connect(t, p, "192.0.2.2")
			go io.WriteString(theirs, hello)
			ended := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				ended <- err
			}()
			synctest.Wait()
			if late {
				time.Sleep(requestTimeout)
			} else {
				c.Close()
			}
			if err := <-ended; err == nil {
				t.Error("the handshake goes on")
			}
			first.Close()
			if p.turns != 1 || len(p.queue) != 0 {
				t.Errorf("%d turns are free and %d wait; want one and none", p.turns, len(p.queue))
			}
		})
	}
}

// From its accept a connection has a time and a number of bytes until the end of
// its first request's header, and a smaller number until the end of a handshake.
func TestWhatComesBeforeARequestIsBounded(t *testing.T) {
	for _, tt := range []struct {
		what  string
		begin string
		ended bool // the handshake has
		most  int
		want  error

		counted int // as bytes of a request
	}{
		{"a handshake", hello, false, maxHandshakeBytes, errHandshakeBytes, 0},
		{"an alert before a handshake", "\x15", false, maxHandshakeBytes, errHandshakeBytes, 0},
		{"a request over TLS", hello, true, maxRequestBytes + 1, errRequestBytes, maxRequestBytes},
		{"a request", "G", false, maxRequestBytes, errRequestBytes, maxRequestBytes},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := table(t, 1)
			c, peer := connect(t, p, "192.0.2.1")
			_ = c.SetReadDeadline(time.Now().Add(time.Hour))
			go func() {
				_, _ = io.WriteString(peer, tt.begin)
				for {
					if _, err := peer.Write(make([]byte, 1000)); err != nil {
						return
					}
				}
			}()
			if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			if tt.ended {
				_ = c.SetReadDeadline(time.Time{}) // as net/http does behind a handshake
			}
			n, err := io.Copy(io.Discard, c)
			if int(n)+1 != tt.most || err != tt.want {
				t.Errorf("%s: %d bytes are read, then %v; want %d, then %v", tt.what, n+1, err, tt.most, tt.want)
			}
			if counted := int(c.requestBytes.Load()); counted != tt.counted {
				t.Errorf("%s: %d bytes count as a request's; want %d", tt.what, counted, tt.counted)
			}
			c.Close()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c, _ := connect(t, table(t, 1), "192.0.2.1")
		began := time.Now()
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != requestTimeout {
			t.Errorf("a silent connection ends after %v, %v; want %v", time.Since(began), err, requestTimeout)
		}
		c.table.state(c, http.StateActive)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("behind its request's header a connection ends after %v, %v; want %v, as the server says", time.Since(began), err, time.Hour)
		}
	})
}

// The first bytes of a request need no turn. The parsing of a long header does, so that
// requests with many fields leave processors to frames.
func TestALongHeaderIsParsedInATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := table(t, 1)
		holder, _ := connect(t, p, "192.0.2.1")
		holder.begin()
		p.mu.Lock()
		p.turns--
		p.give(holder)
		p.mu.Unlock()
		c, peer := connect(t, p, "192.0.2.2")
		go io.WriteString(peer, strings.Repeat("G", smallRequest+1))
		if n, err := c.Read(make([]byte, smallRequest)); n != smallRequest || err != nil {
			t.Fatalf("%d bytes, %v; want %d without a turn", n, err, smallRequest)
		}
		has := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			has <- err
		}()
		synctest.Wait()
		if len(has) > 0 {
			t.Fatal("a long header is parsed while a handshake computes, and there is one turn")
		}
		holder.Close()
		if err := <-has; err != nil {
			t.Error(err)
		}
		c.Close()
	})
}

// After the first request, and until the upgrade, TLS gets a bounded number of bytes.
func TestTLSTakesInABoundedAmountBeforeTheUpgrade(t *testing.T) {
	for _, tt := range []struct {
		what  string
		begin string
		want  error
	}{
		{"TLS", hello, errUndelivered},
		{"no TLS", "G", io.EOF},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := table(t, 1)
			c, peer := connect(t, p, "192.0.2.1")
			go func() {
				_, _ = io.WriteString(peer, tt.begin)
				for range 100 {
					_, _ = peer.Write(make([]byte, 1000))
				}
				peer.Close()
			}()
			if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			p.state(c, http.StateActive)
			n, err := 0, error(nil)
			for err == nil {
				var k int
				k, err = c.Read(make([]byte, 1000))
				n += k
			}
			if err != tt.want || err == errUndelivered && (n <= maxUndelivered || n > maxUndelivered+1000) {
				t.Errorf("%s: %d bytes are read, then %v; want %v", tt.what, n, err, tt.want)
			}
			c.Close()
		})
	}
}

// At the private listener a connection counts from its last request, and not while
// a request is answered.
func TestAConnectionBetweenTwoRequestsIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := table(t, 1).operators()
		c, _ := connect(t, p, "192.0.2.1")
		c.begin()
		for range 2 {
			p.state(c, http.StateActive)
			if c.busy {
				t.Error("a connection is busy while its request is being read")
			}
			p.answering(c, true)
			time.Sleep(time.Second)
			if !c.busy {
				t.Error("a connection is idle while its request is being answered")
			}
			p.state(c, http.StateIdle)
			if c.busy || !c.since.Equal(time.Now()) {
				t.Errorf("busy %t, idle since %v; want since now", c.busy, c.since)
			}
		}
	})
}
