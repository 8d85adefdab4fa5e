package main

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// incumbent connects a binary that holds the server-id s. It answers pings if answers is
// true.
func incumbent(t *testing.T, s served, answers bool) *wstest.Conn {
	t.Helper()
	c, _, err := wstest.Dial("ws://"+s.public+"/v1/server", http.Header{"User-Agent": {"x"}, "X-Pyrycode-Server": {"s"}, "X-Pyrycode-Version": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s.until(t, "1", "0", "0")
	if answers {
		read := make(chan struct{})
		go func() {
			defer close(read)
			for {
				if _, _, err := c.ReadMessage(); err != nil {
					return
				}
			}
		}()
		t.Cleanup(func() { c.Close(); <-read })
	}
	return c
}

// probe prints "holds" after the relay has granted the claim, and never for a claim that
// the relay refuses.
func TestProbePrintsThatItHoldsAServerIDWhenItDoes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		held    bool // by another binary
		answers bool
		want    string // a regular expression for stdout and stderr
		code    int
	}{
		{"the server-id is free", false, false, `^binary: holds server-id s\n$`, done},
		{"a silent binary holds it", true, false, `^binary: connected, and waits for the relay to decide who holds server-id s\nbinary: holds server-id s\n$`, done},
		{"a live binary holds it", true, true, `^pyrycode-relay probe: the relay closed the binary: 4409 server-id already claimed: another binary, which is alive, holds server-id s\n$`, failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveHere(t, "--conflict-probe", "1500ms")
			if tt.held {
				incumbent(t, s, tt.answers)
			}
			got := call(t.Context(), nil, "probe", "--relay", "ws://"+s.public, "--role", "binary", "--server-id", "s", "--hold", "1ms", "--timeout", "500ms")
			if said := got.stdout + got.stderr; got.code != tt.code || !regexp.MustCompile(tt.want).MatchString(said) {
				t.Errorf("exit %d, %q; want %d, %s", got.code, said, tt.code, tt.want)
			}
		})
	}
}

// A frame that another binary has answered, such as that of a second probe, does not
// count as a round trip.
func TestARoundTripThroughAnotherBinaryDoesNotCount(t *testing.T) {
	t.Parallel()
	s := serveHere(t)
	holder, said := child(t, "probe", "--relay", "ws://"+s.public, "--role", "binary", "--server-id", "s")
	if !said.Scan() {
		t.Fatal("the holder says nothing")
	}
	for range 10 { // the order of phone and binary is random
		got := call(t.Context(), nil, "probe", "--relay", "ws://"+s.public, "--server-id", "s", "--timeout", "2s")
		if got.code != failed || !strings.Contains(got.stderr, "4409") {
			t.Fatalf("got %+v; want a failure with 4409", got)
		}
	}
	_ = holder.Process.Kill()
	_ = holder.Wait()
}

// A probe waits for the decision about its claim until it is interrupted.
func TestAClaimThatIsNeverDecidedCanBeInterrupted(t *testing.T) {
	silent := badRelay(t, func(c *websocket.Conn) {
		_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(noServer, "no server with that id"), time.Now().Add(time.Second))
		_, _, _ = c.ReadMessage()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got := call(ctx, nil, "probe", "--relay", silent, "--role", "binary", "--server-id", "s")
	if got.code != failed || got.stdout != "" || got.stderr != "pyrycode-relay probe: interrupted\n" {
		t.Errorf("got %+v; want an interruption", got)
	}
}
