package relay

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// ledger expects each attempt to be counted once and under its outcome.
type ledger struct {
	n    *node
	want map[string]float64
}

func (n *node) ledger() *ledger { return &ledger{n, n.series("ws_upgrade_attempts_total")} }

// moved says that one more attempt has had outcome, given as endpoint/outcome.
// All other series must be where they were.
func (l *ledger) moved(outcome string) {
	l.n.t.Helper()
	if _, ok := l.want[outcome]; !ok {
		l.n.t.Fatalf("no series %s", outcome)
	}
	l.want[outcome]++
	l.same()
}

func (l *ledger) same() {
	l.n.t.Helper()
	var got map[string]float64
	l.n.wait("the attempts to be counted", func() bool {
		got = l.n.series("ws_upgrade_attempts_total")
		return total(got) >= total(l.want)
	})
	if !maps.Equal(got, l.want) {
		l.n.t.Fatalf("attempts\n got %v\nwant %v", got, l.want)
	}
}

func total(m map[string]float64) (sum float64) {
	for _, v := range m {
		sum += v
	}
	return sum
}

func TestARequiredHeaderThatIsMissingEmptyOrTooLongIs400(t *testing.T) {
	const secret = "s3cr3t"
	full := map[string]http.Header{
		"server": {wire.HeaderServer: {secret}, wire.HeaderVersion: {secret}, wire.HeaderUserAgent: {secret}},
		"client": {wire.HeaderServer: {secret}, wire.HeaderUserAgent: {secret}, "x-pyrycode-token": {secret}},
	}
	n := start(t, Config{})
	l := n.ledger()
	for _, tt := range []struct{ door, header string }{
		{"server", wire.HeaderServer}, {"server", wire.HeaderVersion}, {"server", wire.HeaderUserAgent},
		{"client", wire.HeaderServer}, {"client", wire.HeaderUserAgent},
	} {
		for _, fault := range []string{"missing", "empty", "blank", "too long"} {
			h := full[tt.door].Clone()
			rule := "missing or empty"
			switch fault {
			case "missing":
				delete(h, tt.header)
			case "empty":
				h[tt.header] = []string{""}
			case "blank":
				h[tt.header] = []string{" \t "}
			case "too long":
				if tt.header != wire.HeaderServer {
					continue
				}
				h[tt.header] = []string{strings.Repeat(secret, 50)[:257]}
				rule = "longer than 256 bytes"
			}
			t.Run(fmt.Sprintf("%s of a %s is %s", tt.header, tt.door, fault), func(t *testing.T) {
				_, resp, body := n.ask(handshake("/v1/"+tt.door, h))
				if resp.StatusCode != http.StatusBadRequest {
					t.Errorf("status %d; want 400", resp.StatusCode)
				}
				if want := "header " + tt.header + ": " + rule + "\n"; body != want {
					t.Errorf("body %q; want %q", body, want)
				}
				if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain") {
					t.Errorf("content type %q; want plain text", ct)
				}
				if strings.Contains(body, secret) {
					t.Errorf("body %q names a value", body)
				}
				l.moved(tt.door + "/reject_headers")
			})
		}
	}
	t.Run("a server-id of 256 bytes passes", func(t *testing.T) {
		id := strings.Repeat("é", 128)
		b := n.binary(id)
		l.moved("server/accept")
		p := n.phone(id)
		joined(t, b, p)
		l.moved("client/accept")
	})
}

func TestAnOriginThatIsNotAllowedIs403(t *testing.T) {
	n := start(t, Config{AllowedOrigins: []string{"https://App.example"}})
	l := n.ledger()
	for _, tt := range []struct {
		name    string
		origins []string
		status  int
	}{
		{"none passes", nil, 101},
		{"an allowed one passes", []string{"https://App.example"}, 101},
		{"an allowed one in other case passes", []string{"HTTPS://aPP.EXAMPLE"}, 101},
		{"a foreign one is refused", []string{"https://evil.example"}, 403},
		{"null is refused", []string{"null"}, 403},
		{"an empty one is refused", []string{""}, 403},
		{"another scheme is refused", []string{"http://App.example"}, 403},
		{"another port is refused", []string{"https://App.example:8443"}, 403},
		{"a longer host is refused", []string{"https://App.example.evil.example"}, 403},
		{"a foreign one after an allowed one is refused", []string{"https://App.example", "https://evil.example"}, 403},
	} {
		for _, door := range []string{"server", "client"} {
			t.Run(tt.name+" at the "+door+"'s door", func(t *testing.T) {
				h := binaryHeaders("s-" + tt.name)
				if tt.origins != nil {
					h["Origin"] = tt.origins
				}
				_, resp, body := n.ask(handshake("/v1/"+door, h))
				if resp.StatusCode != tt.status {
					t.Errorf("status %d; want %d", resp.StatusCode, tt.status)
				}
				if strings.Contains(body, "evil") {
					t.Errorf("body %q repeats the origin", body)
				}
				if tt.status == 403 {
					l.moved(door + "/reject_origin")
				} else {
					l.moved(door + "/accept")
				}
			})
		}
	}
}

func TestNoOriginIsAllowedUnlessConfigured(t *testing.T) {
	n := start(t, Config{})
	h := binaryHeaders("s1")
	h.Set("Origin", "https://"+n.host())
	if _, resp, _ := n.ask(handshake("/v1/client", h)); resp.StatusCode != 403 {
		t.Errorf("status %d; want 403", resp.StatusCode)
	}
}

// retryAfterOf is the Retry-After of a refusal, in seconds.
func retryAfterOf(t testing.TB, resp *http.Response) int {
	t.Helper()
	s, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || s < 1 {
		t.Errorf("Retry-After %q; want a positive number", resp.Header.Get("Retry-After"))
	}
	return s
}

func TestTooManyAttemptsFromOneAddressAre429(t *testing.T) {
	n := start(t, Config{Rate: 0.05, Burst: 2})
	l := n.ledger()
	n.binary("s1")
	l.moved("server/accept")
	n.phone("s1")
	l.moved("client/accept")
	for i, door := range []string{"server", "client"} {
		// Without the headers too: the rate is the outermost gate.
		for j, h := range []http.Header{binaryHeaders("s2"), {}} {
			_, resp, _ := n.ask(handshake("/v1/"+door, h))
			if resp.StatusCode != http.StatusTooManyRequests {
				t.Errorf("%s: status %d; want 429", door, resp.StatusCode)
			}
			if s := retryAfterOf(t, resp); s > 20 {
				t.Errorf("Retry-After %d; want at most 1/rate, 20", s)
			}
			l.moved(door + "/reject_rate_limit")
			n.wantMetric("register_failures_total", "ratelimit", float64(2*i+j+1))
		}
	}
	if _, resp, _ := n.ask("GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("/healthz: status %d; want 200", resp.StatusCode)
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestARelayThatIsFullAnswers503(t *testing.T) {
	for name, cfg := range map[string]Config{
		"the relay has all the connections it may have":    {MaxConns: 2},
		"this address has all the connections it may have": {MaxConnsPerAddress: 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, cfg)
			l := n.ledger()
			n.binary("s1")
			l.moved("server/accept")
			p := n.phone("s1")
			l.moved("client/accept")
			for _, door := range []string{"server", "client"} {
				for _, h := range []http.Header{binaryHeaders("s2"), {}} { // before the headers are looked at
					_, resp, body := n.ask(handshake("/v1/"+door, h))
					if resp.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("%s: status %d; want 503", door, resp.StatusCode)
					}
					retryAfterOf(t, resp)
					if body != name+"\n" {
						t.Errorf("body %q; want %q", body, name)
					}
					l.moved(door + "/reject_capacity")
				}
			}
			if _, resp, _ := n.ask("GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"); resp.StatusCode != 200 {
				t.Errorf("/healthz: status %d; want 200", resp.StatusCode)
			}
			p.Close()
			n.wait("the place to be free", func() bool { return n.sockets() == 1 })
			n.phone("s1")
			l.moved("client/accept")
		})
	}
}

func TestARefusedRequestGivesItsPlaceBack(t *testing.T) {
	n := start(t, Config{MaxConns: 1})
	for range 5 {
		if _, resp, _ := n.ask(handshake("/v1/server", http.Header{})); resp.StatusCode != 400 {
			t.Fatalf("status %d; want 400 each time", resp.StatusCode)
		}
		n.wait("the place to be free", func() bool { return n.places() == 0 })
	}
}

// places is how many places in the census are taken.
func (n *node) places() int {
	n.census.mu.Lock()
	defer n.census.mu.Unlock()
	return n.census.places
}

func TestADrainingRelayAnswers503(t *testing.T) {
	n := start(t, Config{})
	l := n.ledger()
	done := make(chan struct{})
	n.Drain(0, func() { close(done) })
	within(t, "the drain", done)
	for _, door := range []string{"server", "client"} {
		for _, h := range []http.Header{binaryHeaders("s2"), {}} {
			_, resp, body := n.ask(handshake("/v1/"+door, h))
			if resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d; want 503", door, resp.StatusCode)
			}
			retryAfterOf(t, resp)
			if want := "the relay is shutting down\n"; body != want {
				t.Errorf("body %q; want %q", body, want)
			}
			l.moved(door + "/reject_draining")
		}
	}
}

func TestABadHandshakeIs4xx(t *testing.T) {
	n := start(t, Config{})
	l := n.ledger()
	good := handshake("/v1/client", headers(wire.HeaderServer, "s1"))
	for name, request := range map[string]string{
		"no upgrade at all":      "GET /v1/client HTTP/1.1\r\nHost: relay\r\nUser-Agent: x\r\nX-Pyrycode-Server: s1\r\n\r\n",
		"another upgrade":        strings.Replace(good, "Upgrade: websocket", "Upgrade: h2c", 1),
		"not a connection token": strings.Replace(good, "Connection: Upgrade", "Connection: close", 1),
		"an old version":         strings.Replace(good, "Version: 13", "Version: 8", 1),
		"no key":                 strings.Replace(good, "Sec-WebSocket-Key", "X-Key", 1),
		"a key too short":        strings.Replace(good, "dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 1),
		"POST":                   strings.Replace(good, "GET", "POST", 1),
		"HEAD":                   strings.Replace(good, "GET", "HEAD", 1),
	} {
		for _, door := range []string{"server", "client"} {
			t.Run(name+" at the "+door+"'s door", func(t *testing.T) {
				request := strings.Replace(request, "/v1/client", "/v1/"+door, 1)
				request = strings.Replace(request, "\r\n\r\n", "\r\nX-Pyrycode-Version: 1\r\n\r\n", 1)
				if _, resp, _ := n.ask(request); resp.StatusCode < 400 || resp.StatusCode > 499 {
					t.Errorf("status %d; want 4xx", resp.StatusCode)
				}
				l.moved(door + "/reject_handshake")
			})
		}
	}
	if got := n.places(); got != 0 {
		t.Errorf("%d places taken; want 0", got)
	}
}

func TestEverythingElseIs404(t *testing.T) {
	n := start(t, Config{})
	l := n.ledger()
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/server/", "/v1/server/x", "/v1/servers", "/v3/server", "/V1/server",
		"/v1/binary", "/metrics", "/readyz", "/debug/pprof/", "/debug/check", "/healthz/", "/favicon.ico",
		"//v1/server", "/v1//server", "/v1/./server", "/x/../v1/server"} {
		t.Run(path, func(t *testing.T) {
			if _, resp, _ := n.ask(handshake(path, binaryHeaders("s1"))); resp.StatusCode != 404 {
				t.Errorf("%s: status %d; want 404", path, resp.StatusCode)
			}
		})
	}
	l.same()
}

func TestTheDoorsHaveV2Aliases(t *testing.T) {
	n := start(t, Config{})
	l := n.ledger()
	b := n.dial("/v2/server", binaryHeaders("s1"))
	l.moved("server/accept")
	p := n.dial("/v2/client?x=1", headers(wire.HeaderServer, "s1"))
	joined(t, b, p)
	l.moved("client/accept")
	joined(t, b, n.phone("s1"))
	l.moved("client/accept")
}

func TestRefusalsAfterTheUpgradeAreCountedByTheirCode(t *testing.T) {
	n := start(t, Config{MaxPhones: 1})
	l := n.ledger()
	n.phone("s1").wantClose(4404, "no server with that id")
	l.moved("client/reject_404")
	n.wantMetric("register_failures_total", "no_server", 1)

	b := n.binary("s1")
	l.moved("server/accept")
	b.hear()
	n.phone("s1")
	l.moved("client/accept")
	n.phone("s1").wantClose(4429, "too many phones for server-id")
	l.moved("client/reject_429")
	n.wantMetric("register_failures_total", "phones_at_cap", 1)
	n.phone("s2").wantClose(4404, "no server with that id") // wins over the cap
	l.moved("client/reject_404")

	n.dial("/v1/server", binaryHeaders("s1")).wantClose(4409, "server-id already claimed")
	l.moved("server/reject_409")
	n.wantMetric("register_failures_total", "server_in_use", 1)
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestHealthz(t *testing.T) {
	n := start(t, Config{Version: "v1.2.3"})
	n.binary("s1")
	n.phone("s1")
	n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 2})
	for _, method := range []string{"GET", "POST", "DELETE", "HEAD", "OPTIONS"} {
		t.Run("answers "+method, func(t *testing.T) {
			_, resp, body := n.ask(method + " /healthz HTTP/1.1\r\nHost: relay\r\nOrigin: null\r\n\r\n")
			if resp.StatusCode != 200 {
				t.Errorf("status %d; want 200", resp.StatusCode)
			}
			for k, want := range map[string]string{"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"} {
				if got := resp.Header.Get(k); got != want {
					t.Errorf("%s is %q; want %q", k, got, want)
				}
			}
			want := `^{"status":"ok","version":"v1\.2\.3","connected_binaries":1,"connected_phones":2,"uptime_seconds":[0-9]+}\n$`
			if method == "HEAD" {
				want = `^$`
			}
			if !regexp.MustCompile(want).MatchString(body) {
				t.Errorf("body %q; want %s", body, want)
			}
		})
	}
}
