package front

import (
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// patience bounds every wait of these tests; none ends by it.
const patience = 10 * time.Second

// open returns a Front of c, which the function completes, and the addresses of a
// public, a private and perhaps a challenges listener. All answer 200 until the test
// ends.
func open(t *testing.T, c Config) (f *Front, public, private, challenges string) {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	c.Log, c.Metrics, c.ErrorLog = slog.New(slog.DiscardHandler), prometheus.NewRegistry(), func(string) *log.Logger { return quiet }
	c.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(s *http.Server, guard func(net.Listener) net.Listener) string {
		ln, err := Listen(t.Context(), "listen", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(guard(ln)) }()
		t.Cleanup(func() { s.Close(); <-ended })
		return ln.Addr().String()
	}
	operators := f.PrivateServer(c.Handler, quiet)
	public, private = serve(f.Server, f.Guard), serve(operators, f.GuardPrivate)
	if f.Challenges != nil {
		challenges = serve(f.Challenges, f.GuardChallenges)
	}
	return f, public, private, challenges
}

// dial connects to address from 127.0.0.0/8's address with these last two bytes.
func dial(t *testing.T, address string, from ...byte) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, from[0], from[1])}}
	c, err := dialer.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// status asks for a page and returns the status of the answer.
func status(t *testing.T, address string) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// cuts returns how many connections have been cut for that reason.
func (f *Front) cuts(t *testing.T, reason string) float64 {
	t.Helper()
	var m dto.Metric
	if err := f.pending.cut.WithLabelValues(reason).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// A few addresses that take all places, before their requests or in the middle
// of them, make no other client wait.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	f, public, _, _ := open(t, Config{Limits: Limits{Pending: 20, PendingPerAddress: 10}})
	f.pending.mu.Lock()
	f.pending.evictAfter = 100 * time.Millisecond
	f.pending.mu.Unlock()
	for i := range 40 {
		c := dial(t, public, 7, byte(1+i/8))
		if i%2 == 0 {
			_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-")
		}
	}
	begun := time.Now()
	if got := status(t, public); got != 200 {
		t.Errorf("a newcomer gets %d; want 200", got)
	}
	if took := time.Since(begun); took > headerTimeout/2 {
		t.Errorf("a newcomer waited %v", took)
	}
	if f.cuts(t, cutFull) == 0 {
		t.Error("the connections that were closed for others are not counted")
	}
}

// Port 80 is as public as 443 is.
func TestTheListenerForChallengesIsBoundedToo(t *testing.T) {
	f, _, _, challenges := open(t, Config{Domain: "relay.example", ACMEDir: t.TempDir(), Challenges: true, Limits: Limits{Pending: 20, PendingPerAddress: 3}})
	for range 5 {
		dial(t, challenges, 0, 1)
	}
	for end := time.Now().Add(patience); f.cuts(t, cutAddress) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v of five connections are cut; want two", f.cuts(t, cutAddress))
		}
	}
}

// Clients that send the content of a request slowly keep no operator out.
func TestThePrivateListenerServesNewcomersBesidesSlowContent(t *testing.T) {
	f, _, private, _ := open(t, Config{Limits: Limits{Pending: 20, PendingPerAddress: 10}})
	for range 2 * operatorConns {
		c := dial(t, private, 5, 1)
		_, _ = c.Write([]byte("POST /bans HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n{")) // it may be cut for a newer one
	}
	time.Sleep(2 * operatorEvictAfter) // as a client that tries again
	for range 3 {
		if got := status(t, private); got != http.StatusOK {
			t.Errorf("the private listener answers %d; want 200", got)
		}
	}
	if f.cuts(t, cutOperators) == 0 {
		t.Error("the connections that were closed for others are not counted")
	}
}

// Clients that may connect to the private listener, password or not, can neither
// keep operators out nor use up the process's descriptors.
func TestThePrivateListenerServesNewcomersBesidesIdleConnections(t *testing.T) {
	f, public, private, _ := open(t, Config{Limits: Limits{Pending: 20, PendingPerAddress: 10}})
	for i := range 3 * operatorConns {
		c := dial(t, private, 5, byte(1+i%4))
		if i%2 == 0 { // idle before its first request, and behind it
			_, _ = c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")) // it may be cut for a newer one
		}
	}
	for range 3 {
		if got := status(t, private); got != http.StatusOK {
			t.Errorf("the private listener answers %d; want 200", got)
		}
	}
	f.operators.mu.Lock()
	held := len(f.operators.all)
	f.operators.mu.Unlock()
	if held > operatorConns {
		t.Errorf("the private listener holds %d connections; want at most %d", held, operatorConns)
	}
	if got := status(t, public); got != http.StatusOK {
		t.Errorf("the public listener answers %d", got)
	}
	if f.cuts(t, cutOperators) == 0 {
		t.Error("the connections that were closed for others are not counted")
	}
}

// raw sends bytes to address and returns the first line of the answer.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	c := dial(t, address, 0, 1)
	_ = c.SetDeadline(time.Now().Add(patience))
	go io.WriteString(c, request) // the server may answer before it has read all
	answer, _ := io.ReadAll(io.LimitReader(c, 200))
	line, _, _ := strings.Cut(string(answer), "\r\n")
	return line
}

func TestThePublicListenerKeepsToHTTP1AndSmallHeaders(t *testing.T) {
	_, public, _, _ := open(t, Config{Limits: Limits{Pending: 2, PendingPerAddress: 2}})
	if got := raw(t, public, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); strings.HasPrefix(got, "\x00") || !strings.HasPrefix(got, "HTTP/1.1 ") {
		t.Errorf("to an HTTP/2 preface the answer is %q; want one in HTTP/1.1", got)
	}
	for fields, want := range map[int]string{
		maxHeaderBytes:              "HTTP/1.1 200 OK",
		maxHeaderBytes + headerSlop: "HTTP/1.1 431 Request Header Fields Too Large",
	} {
		long := "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", fields) + "\r\n\r\n"
		if got := raw(t, public, long); got != want {
			t.Errorf("to a field of %d bytes the answer is %q; want %q", fields, got, want)
		}
	}
}
