package front

import (
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// Of two handshakes that have something to compute one waits, until the other
// writes, reads on, is closed, or has come to its end.
func TestHandshakesTakeTurns(t *testing.T) {
	for _, tt := range []struct {
		what string
		do   func(*limitedConn)
	}{
		{"writes", func(c *limitedConn) { _, _ = c.Write([]byte("x")) }},
		{"reads on", func(c *limitedConn) { go c.Read(make([]byte, 1)) }},
		{"is closed", func(c *limitedConn) { c.Close() }},
		{"has ended", func(c *limitedConn) { c.state(http.StateActive) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := make(handshakeLimiter, 1)
				conn := func() (*limitedConn, net.Conn) {
					ours, theirs := net.Pipe()
					t.Cleanup(func() { ours.Close(); theirs.Close() })
					return &limitedConn{Conn: ours, limiter: all}, theirs
				}
				first, peer := conn()
				second, other := conn()
				go io.WriteString(peer, "a")
				go io.WriteString(other, "b")
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
				second.state(http.StateActive)
				go io.WriteString(other, "c")
				if _, err := second.Read(make([]byte, 1)); err != nil || len(all) != 0 {
					t.Errorf("behind its handshake a connection has %d turns, %v; want none", len(all), err)
				}
			})
		})
	}
}

// A handshake that is cut while it waits for its turn takes none with it.
func TestAHandshakeCutBeforeItsTurnKeepsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := make(handshakeLimiter, 1)
		all <- struct{}{} // somebody computes
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &limitedConn{Conn: ours, limiter: all}
		go io.WriteString(theirs, "a")
		go c.Read(make([]byte, 1))
		synctest.Wait()
		c.Close()
		<-all
		synctest.Wait()
		if len(all) != 0 {
			t.Error("a connection that is closed has a turn; want none")
		}
	})
}

// Between two requests a connection is waited for, as in the middle of a
// handshake: it must not keep its place from newcomers.
func TestAConnectionBetweenTwoRequestsIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &limitedConn{limiter: make(handshakeLimiter, 1)}
		for range 2 {
			c.state(http.StateActive)
			time.Sleep(time.Second)
			if got := c.silent(time.Now()); got != 0 {
				t.Errorf("silent for %s while its request is answered; want 0", got)
			}
			c.state(http.StateIdle)
			time.Sleep(time.Second)
			if got := c.silent(time.Now()); got != time.Second {
				t.Errorf("silent for %s between two requests; want 1s", got)
			}
		}
	})
}
