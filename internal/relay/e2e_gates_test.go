package relay

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// ledger checks that each attempt is counted once, under its outcome.
type ledger struct {
	n    *node
	want map[string]float64
}

func (n *node) ledger() *ledger { return &ledger{n, n.series("ws_upgrade_attempts_total")} }

// moved expects that one more attempt has this outcome, given as endpoint/outcome, and
// that all other series are unchanged.
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
	for _, tt := range []struct{ endpoint, header string }{
		{"server", wire.HeaderServer}, {"server", wire.HeaderVersion}, {"server", wire.HeaderUserAgent},
		{"client", wire.HeaderServer}, {"client", wire.HeaderUserAgent},
	} {
		for _, fault := range []string{"missing", "empty", "blank", "too long"} {
			h := full[tt.endpoint].Clone()
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
			t.Run(fmt.Sprintf("%s of a %s is %s", tt.header, tt.endpoint, fault), func(t *testing.T) {
				_, resp, body := n.ask(handshake("/v1/"+tt.endpoint, h))
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
				l.moved(tt.endpoint + "/reject_headers")
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
		for _, endpoint := range []string{"server", "client"} {
			t.Run(tt.name+" at the "+endpoint+"'s endpoint", func(t *testing.T) {
				h := binaryHeaders("s-" + tt.name)
				if tt.origins != nil {
					h["Origin"] = tt.origins
				}
				_, resp, body := n.ask(handshake("/v1/"+endpoint, h))
				if resp.StatusCode != tt.status {
					t.Errorf("status %d; want %d", resp.StatusCode, tt.status)
				}
				if strings.Contains(body, "evil") {
					t.Errorf("body %q repeats the origin", body)
				}
				if tt.status == 403 {
					l.moved(endpoint + "/reject_origin")
				} else {
					l.moved(endpoint + "/accept")
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

// retryAfterOf returns the Retry-After of a refusal, in seconds.
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
	for i, endpoint := range []string{"server", "client"} {
		// The second request has no headers: the rate is the outermost gate.
		for j, h := range []http.Header{binaryHeaders("s2"), {}} {
			_, resp, _ := n.ask(handshake("/v1/"+endpoint, h))
			if resp.StatusCode != http.StatusTooManyRequests {
				t.Errorf("%s: status %d; want 429", endpoint, resp.StatusCode)
			}
			if s := retryAfterOf(t, resp); s > 20 {
				t.Errorf("Retry-After %d; want at most 1/rate, 20", s)
			}
			l.moved(endpoint + "/reject_rate_limit")
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
		"the relay has all the connections it may have":                                        {MaxConns: 2},
		"this address, or the IPv6 network that it is in, has all the connections it may have": {MaxConnsPerAddress: 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, cfg)
			l := n.ledger()
			n.binary("s1")
			l.moved("server/accept")
			p := n.phone("s1")
			l.moved("client/accept")
			for _, endpoint := range []string{"server", "client"} {
				for _, h := range []http.Header{binaryHeaders("s2"), {}} { // before the headers are looked at
					_, resp, body := n.ask(handshake("/v1/"+endpoint, h))
					if resp.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("%s: status %d; want 503", endpoint, resp.StatusCode)
					}
					retryAfterOf(t, resp)
					if body != name+"\n" {
						t.Errorf("body %q; want %q", body, name)
					}
					l.moved(endpoint + "/reject_capacity")
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

// places returns the number of places in the connection table that are taken.
func (n *node) places() int {
	n.table.mu.Lock()
	defer n.table.mu.Unlock()
	return n.table.count
}

func TestADrainingRelayAnswers503(t *testing.T) {
	n := start(t, Config{})
	l := n.ledger()
	done := make(chan struct{})
	n.Drain(0, func() { close(done) })
	within(t, "the drain", done)
	for _, endpoint := range []string{"server", "client"} {
		for _, h := range []http.Header{binaryHeaders("s2"), {}} {
			_, resp, body := n.ask(handshake("/v1/"+endpoint, h))
			if resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d; want 503", endpoint, resp.StatusCode)
			}
			retryAfterOf(t, resp)
			if want := "the relay is shutting down\n"; body != want {
				t.Errorf("body %q; want %q", body, want)
			}
			l.moved(endpoint + "/reject_draining")
		}
	}
}

func TestTheAnswerToABadHandshakeNamesTheWrongPart(t *testing.T) {
	const secret = "s3cr3t"
	n := start(t, Config{})
	l := n.ledger()
	good := handshake("/v1/client", binaryHeaders("s1"))
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the request has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	const (
		content    = "content: an upgrade request must have none, so no Content-Length other than 0 and no Transfer-Encoding"
		connection = "header connection: must name upgrade; does a proxy in front pass it on?"
		upgrade    = "header upgrade: must be websocket; does a proxy in front pass it on?"
		version    = "header sec-websocket-version: must be 13"
		key        = "header sec-websocket-key: must be 16 bytes in base64"
		method     = "method: must be GET"
	)
	for name, tt := range map[string]struct {
		request, want string
		status        int
	}{
		"no Connection":            {swap("Connection: Upgrade", "X: x"), connection, 400},
		"another Connection":       {swap("Connection: Upgrade", "Connection: keep-alive, x-"+secret), connection, 400},
		"no Upgrade":               {swap("Upgrade: websocket", "X: x"), upgrade, 400},
		"another Upgrade":          {swap("Upgrade: websocket", "Upgrade: h2c, "+secret), upgrade, 400},
		"no version":               {swap("Sec-WebSocket-Version: 13", "X: x"), version, 400},
		"an old version":           {swap("Version: 13", "Version: 8"), version, 400},
		"a longer version":         {swap("Version: 13", "Version: 13"+secret), version, 400},
		"no key":                   {swap("Sec-WebSocket-Key", "X-Key"), key, 400},
		"a key too short":          {swap("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), key, 400},
		"a key too long":           {swap("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQxx"), key, 400},
		"a key that is no base64":  {swap("dGhlIHNhbXBsZSBub25jZQ==", secret), key, 400},
		"POST":                     {swap("GET", "POST"), method, 405},
		"HEAD":                     {swap("GET", "HEAD"), "", 405},
		"OPTIONS":                  {swap("GET", "OPTIONS"), method, 405},
		"a method that is none":    {swap("GET", "get"), method, 405},
		"HTTP/1.0":                 {swap("HTTP/1.1", "HTTP/1.0"), "HTTP version: an upgrade needs HTTP/1.1", 505},
		"content that is not sent": {swap("Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 6"), content, 400},
		"content of one packet":    {swap("Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 6") + pingFrame, content, 400},
		"content that is expected": {swap("Upgrade: websocket", "Upgrade: websocket\r\nExpect: 100-continue\r\nContent-Length: 6"), content, 400},
		"much content":             {swap("Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 9223372036854775807"), content, 400},
		"chunks":                   {swap("Upgrade: websocket", "Upgrade: websocket\r\nTransfer-Encoding: chunked") + "6\r\n" + pingFrame + "\r\n0\r\n\r\n", content, 400},
		"chunks that do not come":  {swap("Upgrade: websocket", "Upgrade: websocket\r\nTransfer-Encoding: chunked"), content, 400},
		"no chunks":                {swap("Upgrade: websocket", "Upgrade: websocket\r\nTransfer-Encoding: chunked") + "0\r\n\r\n", content, 400},
		"a length and chunks":      {swap("Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 6\r\nTransfer-Encoding: chunked") + "0\r\n\r\n", content, 400},
		"a frame behind it":        {good + pingFrame, "content: nothing may follow the upgrade request before it is answered", 400},
		"one byte behind it":       {good + "x", "content: nothing may follow the upgrade request before it is answered", 400},
		"a request behind it":      {good + good, "content: nothing may follow the upgrade request before it is answered", 400},
	} {
		for _, endpoint := range []string{"server", "client"} {
			t.Run(name+" at the "+endpoint+"'s endpoint", func(t *testing.T) {
				_, resp, body := n.ask(strings.Replace(tt.request, "/v1/client", "/v1/"+endpoint, 1))
				want := tt.want
				if want != "" {
					want += "\n"
				}
				if resp.StatusCode != tt.status || body != want {
					t.Errorf("%d %q; want %d %q", resp.StatusCode, body, tt.status, want)
				}
				for header, want := range map[string]string{
					"Sec-Websocket-Version": "13", "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff",
					"Allow": map[bool]string{true: "GET"}[tt.status == 405],
				} {
					if got := resp.Header.Get(header); got != want {
						t.Errorf("%s is %q; want %q", header, got, want)
					}
				}
				if close := strings.HasPrefix(body, "content:"); close && !resp.Close {
					t.Error("the connection stays open; what follows could be taken for a request")
				}
				if strings.Contains(fmt.Sprint(body, resp.Header), secret) {
					t.Errorf("the answer repeats a value: %q, %v", body, resp.Header)
				}
				l.moved(endpoint + "/reject_handshake")
			})
		}
	}
	n.wait("the places to be free", func() bool { return n.places() == 0 })
}

// pingFrame is a client's ping with the masking key 0.
const pingFrame = "\x89\x80\x00\x00\x00\x00"

func TestEveryValidFormOfAHandshakeIsAccepted(t *testing.T) {
	n := start(t, Config{})
	good := handshake("/v1/server", binaryHeaders("s1"))
	for name, request := range map[string]string{
		"as clients send it":          good,
		"other case":                  strings.NewReplacer("Connection: Upgrade", "cOnNeCtIoN: uPgRaDe", "Upgrade: websocket", "upgrade: WebSocket").Replace(good),
		"Connection is a list":        strings.Replace(good, "Connection: Upgrade", "Connection: keep-alive ,\tUpgrade", 1),
		"Connection in two lines":     strings.Replace(good, "Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade", 1),
		"Content-Length: 0":           strings.Replace(good, "Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 0", 1),
		"extensions and subprotocols": strings.Replace(good, "Upgrade: websocket", "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, b", 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, resp, _ := n.ask(request)
			want := http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}} // RFC 6455, section 1.3
			if resp.StatusCode != 101 || !maps.EqualFunc(resp.Header, want, slices.Equal) {
				t.Errorf("%d %v; want 101 %v", resp.StatusCode, resp.Header, want)
			}
		})
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

func TestTheEndpointsHaveV2Aliases(t *testing.T) {
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
	n.phone("s1").WantClose(4404, "no server with that id")
	l.moved("client/reject_404")
	n.wantMetric("register_failures_total", "no_server", 1)

	b := n.binary("s1")
	l.moved("server/accept")
	b.Hear()
	n.phone("s1")
	l.moved("client/accept")
	n.phone("s1").WantClose(4429, "too many phones for server-id")
	l.moved("client/reject_429")
	n.wantMetric("register_failures_total", "phones_at_cap", 1)
	n.phone("s2").WantClose(4404, "no server with that id") // wins over the cap
	l.moved("client/reject_404")

	n.dial("/v1/server", binaryHeaders("s1")).WantClose(4409, "server-id already claimed")
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
