package battery

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// exchange sends parts, each as a segment of its own, and returns everything
// that the relay sends until it closes the connection.
func (n *node) exchange(parts ...string) string {
	n.t.Helper()
	tcp, err := net.Dial("tcp", n.public)
	if err != nil {
		n.t.Error(err)
		return ""
	}
	defer tcp.Close()
	_ = tcp.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(tcp, n.preface)
	c := tcp
	if n.tls != nil {
		c = tls.Client(tcp, n.tls)
	}
	for i, part := range parts {
		if i > 0 {
			time.Sleep(5 * time.Millisecond) // so that it is a segment of its own
		}
		if _, err := io.WriteString(c, part); err != nil {
			break // closed already: the answer may have come
		}
	}
	answer, err := io.ReadAll(io.LimitReader(c, 64<<10))
	if nerr, ok := errors.AsType[net.Error](err); ok && nerr.Timeout() {
		n.t.Errorf("%.60q was not ended within %v", parts, patience)
	}
	return string(answer)
}

const (
	proxyV1 = "PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\n"
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x1f\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78\x03\x00\x10tttttttttttttttt"
)

// edges are the ways to the public listener.
func edges(t *testing.T) map[string]func() *node {
	cert, key, client := selfSigned(t)
	return map[string]func() *node{
		"plain": func() *node { return start(t, nil) },
		"TLS": func() *node {
			n := start(t, func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key })
			n.tls = client
			return n
		},
		"behind a proxy": func() *node {
			n := start(t, func(c *config.Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{"127.0.0.1"} })
			n.preface = proxyV1
			return n
		},
	}
}

// upgradeRequest is a good one, with more headers.
func upgradeRequest(path, more string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Pyrycode-Server: edge\r\nX-Pyrycode-Version: 1\r\nUser-Agent: battery\r\n" + more + "\r\n"
}

// What comes with an upgrade request, or behind it before its answer, is never
// taken for WebSocket messages: 400, once, and the end.
func TestRow35UpgradesWithContentAreRefusedAndClosed(t *testing.T) {
	const ping = "\x89\x80\x00\x00\x00\x00"
	const length, chunked = "Content-Length: 6\r\n", "Transfer-Encoding: chunked\r\n"
	kinds := map[string]func(path string) []string{
		"content in the packet":      func(p string) []string { return []string{upgradeRequest(p, length) + ping} },
		"content in a second packet": func(p string) []string { return []string{upgradeRequest(p, length), ping} },
		"more than the content":      func(p string) []string { return []string{upgradeRequest(p, length), ping + ping + ping} },
		"content that does not come": func(p string) []string { return []string{upgradeRequest(p, length)} },
		"content that is expected":   func(p string) []string { return []string{upgradeRequest(p, length+"Expect: 100-continue\r\n"), ping} },
		"chunks in the packet": func(p string) []string {
			return []string{upgradeRequest(p, chunked) + "6\r\n" + ping + "\r\n0\r\n\r\n" + ping}
		},
		"chunks in a second packet": func(p string) []string {
			return []string{upgradeRequest(p, chunked), "6\r\n" + ping + "\r\n0\r\n\r\n", ping}
		},
		"frames for chunks":            func(p string) []string { return []string{upgradeRequest(p, chunked), ping + ping} },
		"a frame behind the request":   func(p string) []string { return []string{upgradeRequest(p, "") + ping} },
		"a request behind the request": func(p string) []string { return []string{upgradeRequest(p, "") + upgradeRequest(p, "")} },
	}
	for way, open := range edges(t) {
		t.Run(way, func(t *testing.T) {
			n := open()
			n.t = t
			h := n.pair()
			given(t, "%d kinds × 2 endpoints × %d", len(kinds), dose(2, 50))
			handshakes := func() float64 {
				return n.metric(`pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_handshake"}`) +
					n.metric(`pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_handshake"}`)
			}
			accepts := func() float64 {
				return n.metric(`pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="accept"}`)
			}
			n.until("the pair is counted", func() bool { return accepts() == 1 })
			var all sync.WaitGroup
			for name, parts := range kinds {
				for _, path := range []string{"/v1/server", "/v1/client"} {
					all.Go(func() {
						for range dose(2, 50) {
							begun := time.Now()
							got := n.exchange(parts(path)...)
							if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "\r\nConnection: close\r\n") || !strings.Contains(got, "\r\n\r\ncontent: ") {
								t.Errorf("%s at %s: %.300q; want 400, Connection: close and a sentence", name, path, got)
							}
							if strings.Count(got, "HTTP/1.1 ") != 1 || !strings.HasSuffix(got, "\n") || strings.Contains(got, "\x8a") {
								t.Errorf("%s at %s: %.300q; want one answer and nothing behind it", name, path, got)
							}
							if took := time.Since(begun); took > slack {
								t.Errorf("%s at %s: ended after %v; want immediately", name, path, took)
							}
						}
					})
				}
			}
			all.Wait()
			want := float64(len(kinds) * 2 * dose(2, 50))
			n.until("each is counted", func() bool { return handshakes() >= want })
			if got := handshakes(); got != want {
				t.Errorf("%v attempts are counted as refused; want %v", got, want)
			}
			if got := accepts(); got != 1 {
				t.Errorf("%v upgrades are let in; want the pair's alone", got)
			}
			n.connected(1, 1)
			h.check()
		})
	}
}

// coalesced is a connection that keeps what is written while it is held.
type coalesced struct {
	net.Conn
	held bool
	kept []byte
}

func (c *coalesced) Write(b []byte) (int, error) {
	if c.held {
		c.kept = append(c.kept, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// With TLS the frame may be in a record of its own, and the records in one
// segment.
func TestRow35AFrameInTheNextTLSRecordIsRefused(t *testing.T) {
	n := edges(t)["TLS"]()
	h := n.pair()
	given(t, "%d connections", dose(10, 500))
	for range dose(10, 500) {
		tcp, err := net.Dial("tcp", n.public)
		if err != nil {
			t.Fatal(err)
		}
		_ = tcp.SetDeadline(time.Now().Add(patience))
		both := &coalesced{Conn: tcp}
		c := tls.Client(both, n.tls)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		both.held = true
		_, _ = io.WriteString(c, upgradeRequest("/v1/server", ""))
		_, _ = io.WriteString(c, "\x89\x80\x00\x00\x00\x00")
		both.held = false
		if _, err := tcp.Write(both.kept); err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(io.LimitReader(c, 64<<10))
		if got := string(b); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.HasSuffix(got, "before it is answered\n") {
			t.Errorf("%.300q; want 400 and a sentence", got)
		}
		tcp.Close()
	}
	n.connected(1, 1)
	h.check()
}

// A proxy's header may be split anywhere; one that is refused is counted, and
// the log of that is bounded.
func TestRow35SplitPROXYHeadersAreRead(t *testing.T) {
	n := start(t, func(c *config.Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{"127.0.0.1"} })
	n.preface = proxyV1
	h := n.pair()
	n.preface = ""
	const request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	headers := []string{proxyV1, proxyV2, "PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"}
	splits := 0
	var all sync.WaitGroup
	for _, header := range headers {
		for i := 1; i <= len(header); i++ {
			splits++
			all.Go(func() {
				for range dose(1, 20) {
					if got := n.exchange(header[:i], header[i:]+request); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
						t.Errorf("%q split at byte %d: %.100q; want 200", header, i, got)
					}
				}
			})
		}
		all.Wait()
	}
	given(t, "%d split points × %d; 200 broken headers", splits, dose(1, 20))
	before := n.metric(`pyrycode_relay_connections_cut_total{reason="proxy_header"}`)
	for range 200 {
		all.Go(func() { n.exchange("PROXY TCP4 nonsense\r\n", request) })
	}
	all.Wait()
	if got := n.metric(`pyrycode_relay_connections_cut_total{reason="proxy_header"}`) - before; got != 200 {
		t.Errorf("%v of 200 refused headers are counted", got)
	}
	lines := strings.Count(n.log.String(), "does it speak PROXY to this port?")
	if lines == 0 || lines > 100 {
		t.Errorf("%d lines tell of refused headers; want some, and no flood", lines)
	}
	h.check()
}

// A frame that a daemon could not read in its envelope ends the phone that sent
// it, and never reaches the daemon, which reads with encoding/json.
func TestRow35DeepFramesEndTheirSenderOnly(t *testing.T) {
	n := start(t, nil)
	h := n.pair()
	given(t, "%d phones", 4*dose(3, 50))
	b := n.slot("deep")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, text, err := b.ReadMessage()
			if err != nil {
				return
			}
			var e struct {
				ConnID string          `json:"conn_id"`
				Frame  json.RawMessage `json:"frame"`
			}
			if err := json.Unmarshal(text, &e); err != nil {
				t.Errorf("the daemon gets an envelope that it cannot read: %v", err)
			}
			if e.Frame != nil {
				_ = b.WriteMessage(wstest.Text, text)
			}
		}
	}()
	for range dose(3, 50) {
		for _, deep := range []struct {
			depth int
			open  string
			close string
			code  int
		}{{9_999, "[", "]", 0}, {9_999, `{"a":`, "}", 0}, {10_000, "[", "]", 1007}, {10_000, `{"a":`, "}", 1007}} {
			frame := strings.Repeat(deep.open, deep.depth) + "1" + strings.Repeat(deep.close, deep.depth)
			c := n.mustDial("/v1/client", "deep")
			if err := c.WriteMessage(wstest.Text, []byte(frame)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, got, err := c.ReadMessage()
			e, _ := errors.AsType[*wstest.CloseError](err)
			switch {
			case deep.code == 0 && string(got) != frame:
				t.Errorf("%d deep: %d bytes come back, %v; want %d", deep.depth, len(got), err, len(frame))
			case deep.code != 0 && (e == nil || e.Code != deep.code):
				t.Errorf("%d deep: %v; want %d", deep.depth, err, deep.code)
			}
			c.Close()
		}
	}
	if got, want := n.metric(`pyrycode_relay_dropped_frames_total{reason="invalid_frame"}`), float64(2*dose(3, 50)); got != want {
		t.Errorf("%v frames are counted as invalid; want %v", got, want)
	}
	n.connected(2, 1)
	b.Close()
	<-ended
	h.check()
}

// Every answer that is no 101 says in a sentence what is wrong. Those without a
// body are listed in docs/protocol.md.
func TestRow35EveryRefusalHasASentence(t *testing.T) {
	n := start(t, func(c *config.Config) { c.AllowedOrigins = []string{"https://app.example"} })
	h := n.pair()
	type answer struct {
		status int
		body   string // it begins so; "": there is none
		header string // must be there
	}
	given(t, "22 requests")
	get := func(line, more string) string {
		return line + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + more + "\r\n"
	}
	hello := "X-Pyrycode-Server: x\r\nX-Pyrycode-Version: 1\r\nUser-Agent: x\r\n"
	for request, want := range map[string]answer{
		get("OPTIONS *", ""):                                            {404, "404 page not found", ""},
		get("OPTIONS *", "Content-Length: 3\r\n"):                       {404, "404 page not found", ""},
		get("OPTIONS /v1/server", hello):                                {405, "method: must be GET", "Allow: GET"},
		get("POST /v1/client", hello):                                   {405, "method: must be GET", "Allow: GET"},
		get("PUT /v2/client", hello):                                    {405, "method: must be GET", "Allow: GET"},
		get("HEAD /v1/client", hello):                                   {405, "", "Allow: GET"},
		get("GET /v1/client", hello):                                    {400, "header connection: ", "Sec-Websocket-Version: 13"},
		get("GET /v1/client", ""):                                       {400, "header x-pyrycode-server: ", ""},
		get("GET /v1/client", hello+"Origin: https://evil.example\r\n"): {403, "header origin: ", ""},
		get("GET /", ""):                                                {404, "404 page not found", ""},
		get("POST /nothing", "Content-Length: 9\r\n"):                   {404, "404 page not found", "Connection: close"},
		get("TRACE /", ""):                                              {404, "404 page not found", ""},
		get("CONNECT x:1", ""):                                          {404, "404 page not found", ""},
		get("GET /v1/client", "Expect: x\r\n"):                          {417, "", ""}, // net/http's
		"GET /v1/client HTTP/1.1\r\n\r\n":                               {400, "400 Bad Request: missing required Host header", ""},
		"GET /v1/client HTTP/1.0\r\n" + hello + "\r\n":                  {505, "HTTP version: ", ""},
		"GET /v1/client HTTP/3.0\r\nHost: x\r\n\r\n":                    {505, "505 HTTP Version Not Supported", ""},
		"nonsense\r\n\r\n":                                              {400, "400 Bad Request", ""},
		get("GET /", "X: "+strings.Repeat("x", 32<<10)):                 {431, "431 Request Header Fields Too Large", ""},
		get("GET /", "Transfer-Encoding: x\r\n"):                        {501, "Unsupported transfer encoding", ""},
		get("GET /", "Content-Length: x\r\n"):                           {400, "400 Bad Request", ""},
		get("GET /", "Host: y\r\n"):                                     {400, "400 Bad Request", ""},
	} {
		got := n.exchange(request)
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		name, _, _ := strings.Cut(request, "\r\n")
		status, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(head, "HTTP/1.0 "), "HTTP/1.1 "), " ")
		if status != fmt.Sprint(want.status) || !strings.HasPrefix(body, want.body) || want.body == "" && body != "" {
			t.Errorf("%s: %.300q; want %d %q", name, got, want.status, want.body)
		}
		if !strings.Contains(head+"\r\n", want.header) {
			t.Errorf("%s: %.300q; want the header %s", name, got, want.header)
		}
	}
	// The operators' listener, too.
	private := &node{t: t, public: n.private, peers: history.NewPeers()}
	if got := private.exchange("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404 ") || !strings.Contains(got, "not found") {
		t.Errorf("OPTIONS * of an operator: %.200q; want 404 and a sentence", got)
	}
	if got := private.exchange(get("GET /", "")); !strings.HasPrefix(got, "HTTP/1.1 421 ") || !strings.Contains(got, "--metrics-hosts") {
		t.Errorf("an operator with another host's name: %.400q; want 421 and a sentence with the option", got)
	}
	h.check()
}

// Requests with content that never comes get their refusal without waiting for
// it, whichever gate refuses.
func TestRow35RefusalsDoNotWaitForContent(t *testing.T) {
	cert, key, client := selfSigned(t)
	n := start(t, func(c *config.Config) { c.TLSCert, c.TLSKey, c.Rate, c.Burst = cert, key, 0.01, 3 })
	n.tls = client
	h := n.pair() // two of the burst
	given(t, "%d × 4 requests", dose(5, 100))
	var all sync.WaitGroup
	for range dose(5, 100) {
		for request, status := range map[string]int{
			"POST /v1/client HTTP/1.1\r\nHost: relay.test\r\n": http.StatusTooManyRequests,
			"POST /nothing HTTP/1.1\r\nHost: relay.test\r\n":   http.StatusNotFound,
			"POST /nothing HTTP/1.1\r\nHost: elsewhere\r\n":    http.StatusMisdirectedRequest,
			"POST /healthz HTTP/1.1\r\nHost: relay.test\r\n":   http.StatusRequestEntityTooLarge,
		} {
			all.Go(func() {
				begun := time.Now()
				got := n.exchange(request + "Content-Length: 100\r\n\r\n")
				if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", status)) && !(status == 429 && strings.HasPrefix(got, "HTTP/1.1 400 ")) { // one is left of the burst
					t.Errorf("%s: %.100q; want %d", request, got, status)
				}
				if took := time.Since(begun); took > slack {
					t.Errorf("%s: ended after %v; want immediately", request, took)
				}
			})
		}
	}
	all.Wait()
	h.check()
}
