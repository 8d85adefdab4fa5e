package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestProbePrintsTheTimeOfTheRoundTrip(t *testing.T) {
	s := serveHere(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, `^round trip \d+\.\d\d ms \(phone, relay, binary and back; ws://127\.0\.0\.1:\d+, server-id probe-[0-9a-f]{16}\)\n$`},
		{[]string{"--count", "5", "--server-id", "x"}, `^5 round trips: min \d+\.\d\d ms, median \d+\.\d\d ms, max \d+\.\d\d ms \(.*, server-id x\)\n$`},
		{[]string{"--count", "2", "--phones", "16", "--hold", "1ms"}, `^32 round trips of 16 phones: min `},
	} {
		got := call(t.Context(), nil, append([]string{"probe", "--relay", "ws://" + s.public}, tt.args...)...)
		if got.code != 0 || !regexp.MustCompile(tt.want).MatchString(got.stdout) || got.stderr != "" {
			t.Errorf("probe %v: %+v; want %s", tt.args, got, tt.want)
		}
	}
}

// wantFailure fails the test unless the exit code is 1 and stderr has exactly this
// sentence.
func wantFailure(t *testing.T, got outcome, want string) {
	t.Helper()
	if got.code != failed || got.stderr != "pyrycode-relay probe: "+want+"\n" || got.stdout != "" {
		t.Errorf("got %+v\nwant %d and %s", got, failed, want)
	}
}

func TestProbeFailsIfTheRelayIsDown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay := "ws://" + ln.Addr().String()
	ln.Close()
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", relay),
		"cannot reach "+relay+": connection refused; is the relay running?")
}

func TestProbeFailsIfTheRelayDoesNotAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections, and no program answers them
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	relay := "ws://" + ln.Addr().String()
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", relay, "--timeout", "50ms"),
		"no answer from "+relay+" within 50ms: is the relay running, and is nothing in between that drops packets?")
}

func TestProbePrintsTheReasonOfARefusal(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "slow\tdown", http.StatusTooManyRequests)
	}))
	defer s.Close()
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", "ws"+strings.TrimPrefix(s.URL, "http")),
		`the relay refused the binary: HTTP 429 Too Many Requests: slow\tdown (try again in 7 s)`)
}

func TestProbePrintsTheCodeAndReasonOfAClose(t *testing.T) {
	s := serveHere(t)
	relay := "ws://" + s.public
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", relay, "--role", "phone", "--server-id", "free", "--timeout", "500ms"),
		"the relay closed the phone: 4404 no server with that id")
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", relay, "--phones", "17"),
		"the relay closed phone 17: 4429 too many phones for server-id")

	holder, said := child(t, "probe", "--relay", relay, "--role", "binary", "--server-id", "taken")
	if !said.Scan() {
		t.Fatal("the holder says nothing")
	}
	s.until(t, "1", "0", "1") // the 17 phones' binary is in grace
	got := call(t.Context(), nil, "probe", "--relay", relay, "--role", "binary", "--server-id", "taken")
	if got.code != failed || got.stderr != "pyrycode-relay probe: the relay closed the binary: 4409 server-id already claimed: another binary, which is alive, holds server-id taken\n" || strings.Contains(got.stdout, "holds") {
		t.Errorf("a second binary: %+v", got)
	}
	_ = holder.Process.Kill()
}

// A probe that is only a phone does not retry: without a binary it fails at the first
// close.
func TestAProbeThatIsOnlyAPhoneDialsOnce(t *testing.T) {
	var dials atomic.Int32
	noBinary := badRelay(t, func(c *websocket.Conn) {
		dials.Add(1)
		_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(noServer, "no server with that id"), time.Now().Add(time.Second))
		_, _, _ = c.ReadMessage()
	})
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", noBinary, "--role", "phone", "--server-id", "free"),
		"the relay closed the phone: 4404 no server with that id")
	if n := dials.Load(); n != 1 {
		t.Errorf("the phone dialled %d times; want once", n)
	}
}

func TestProbeEndsWhenInterrupted(t *testing.T) {
	s := serveHere(t)
	ctx, interrupt := context.WithCancel(t.Context())
	ended := make(chan outcome, 1)
	out, w := io.Pipe()
	go func() {
		var stderr strings.Builder
		code := run(ctx, []string{"probe", "--relay", "ws://" + s.public, "--role", "binary", "--server-id", "demo"}, nil, w, &stderr)
		ended <- outcome{code: code, stderr: stderr.String()}
	}()
	if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "binary: holds server-id demo" {
		t.Errorf("the probe prints %q", lines.Text())
	}
	s.until(t, "1", "0", "0") // the phone that checked the claim has left
	interrupt()
	if got := <-ended; got.code != 0 || got.stderr != "" {
		t.Errorf("got %+v; want exit 0", got)
	}
	s.until(t, "0", "0", "1")
}

// badRelay runs a server that accepts every upgrade. It calls phone for each phone's
// connection and reads from the others. It returns the server's URL.
func badRelay(t *testing.T, phone func(*websocket.Conn)) string {
	up := websocket.Upgrader{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if r.URL.Path == "/v1/client" {
			phone(c)
			return
		}
		for err == nil {
			_, _, err = c.ReadMessage()
		}
	}))
	t.Cleanup(s.Close)
	return "ws" + strings.TrimPrefix(s.URL, "http")
}

func TestProbeFailsIfTheRelayLosesOrChangesAFrame(t *testing.T) {
	silent := badRelay(t, func(c *websocket.Conn) {
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	})
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", silent, "--timeout", "500ms"),
		"the frame of the phone did not come back within 500ms")
	changes := badRelay(t, func(c *websocket.Conn) {
		_, _, _ = c.ReadMessage()
		_ = c.WriteMessage(websocket.TextMessage, []byte(`{}`))
		_, _, _ = c.ReadMessage()
	})
	got := call(t.Context(), nil, "probe", "--relay", changes)
	if want := regexp.MustCompile(`^pyrycode-relay probe: the phone got another frame than it sent: 2 bytes, sent \d+\n$`); got.code != failed || !want.MatchString(got.stderr) {
		t.Errorf("got %+v; want %s", got, want)
	}
	drops := badRelay(t, func(c *websocket.Conn) { _, _, _ = c.ReadMessage() })
	wantFailure(t, call(t.Context(), nil, "probe", "--relay", drops),
		"the connection of the phone broke off without a close")
}

func TestProbeAnswersPings(t *testing.T) {
	t.Parallel()
	s := serveHere(t, "--heartbeat", "500ms")
	got := call(t.Context(), nil, "probe", "--relay", "ws://"+s.public, "--phones", "2", "--hold", "1200ms")
	if got.code != 0 {
		t.Errorf("held over several heartbeats: %+v; want exit 0", got)
	}
}

// A relay URL with a token is the binary's endpoint itself.
func TestEndpointsOfARelayURL(t *testing.T) {
	for _, tt := range []struct{ base, binary, phone string }{
		{"wss://relay.test", "wss://relay.test/v1/server", "wss://relay.test/v1/client"},
		{"wss://relay.test/below", "wss://relay.test/below/v1/server", "wss://relay.test/below/v1/client"},
		{"wss://relay.test/t/abc", "wss://relay.test/t/abc", "wss://relay.test/v1/client"},
		{"wss://relay.test/below/t/abc", "wss://relay.test/below/t/abc", "wss://relay.test/below/v1/client"},
		{"ws://t", "ws://t/v1/server", "ws://t/v1/client"},
	} {
		if got := endpointURL(tt.base, binaryPath); got != tt.binary {
			t.Errorf("%s: the binary's endpoint is %s; want %s", tt.base, got, tt.binary)
		}
		if got := endpointURL(tt.base, phonePath); got != tt.phone {
			t.Errorf("%s: the phone's endpoint is %s; want %s", tt.base, got, tt.phone)
		}
	}
}
