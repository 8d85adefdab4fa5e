package wstest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// RefusedError reports an answer to an upgrade that is not 101.
type RefusedError struct {
	Status int
	Text   string // the status line and the body
}

func (e *RefusedError) Error() string { return "refused: HTTP " + e.Text }

// Dialer opens connections. The zero value is ready to use.
type Dialer struct {
	Timeout time.Duration                                   // of a dial including its handshakes; 0: 10 s
	Connect func(network, address string) (net.Conn, error) // nil: net.Dial within the timeout
	TLS     *tls.Config                                     // for wss://; nil: the default
	Buffer  int                                             // initial size of the read buffer; 0: 4 KiB
}

// Dial opens a connection with a zero Dialer.
func Dial(to string, h http.Header) (*Conn, *http.Response, error) { return new(Dialer).Dial(to, h) }

// Dial opens a connection to a ws:// or wss:// URL with the given headers. It also
// returns the relay's response, or nil if the relay sent none. If the response is not
// 101, Dial returns a *RefusedError, and the caller can read the response's body.
func (d *Dialer) Dial(to string, h http.Header) (*Conn, *http.Response, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, nil, err
	}
	timeout := cmp.Or(d.Timeout, 10*time.Second)
	connect := d.Connect
	if connect == nil {
		connect = (&net.Dialer{Timeout: timeout, KeepAlive: -1}).Dial
	}
	c, err := connect("tcp", u.Host)
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(timeout))
	if u.Scheme == "wss" {
		config := d.TLS.Clone()
		if config == nil {
			config = new(tls.Config)
		}
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		c = tls.Client(c, config)
	}
	conn, resp, err := Exchange(c, Request(u.Host, u.RequestURI(), h), d.Buffer)
	if err == nil && conn == nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		resp.Body = io.NopCloser(bytes.NewReader(body))
		err = &RefusedError{Status: resp.StatusCode, Text: resp.Status + ": " + strings.TrimSpace(string(body))}
	}
	if err != nil {
		c.Close()
		return nil, resp, err
	}
	_ = c.SetDeadline(time.Time{})
	return conn, resp, nil
}

// Request returns an upgrade request. The headers h replace the request's own headers of
// the same names. The request offers permessage-deflate, which no relay accepts.
func Request(host, path string, h http.Header) string {
	all := http.Header{"Host": {host}, "Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-WebSocket-Version": {"13"},
		"Sec-WebSocket-Key": {newKey()}, "Sec-WebSocket-Extensions": {"permessage-deflate"}}
	maps.DeleteFunc(all, func(own string, _ []string) bool {
		for name := range h {
			if strings.EqualFold(own, name) {
				return true
			}
		}
		return false
	})
	maps.Copy(all, h)
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\n", path)
	_ = all.Write(&b)
	return b.String() + "\r\n"
}

// newKey returns a random Sec-WebSocket-Key.
func newKey() string {
	var nonce [16]byte
	rand.Read(nonce[:])
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// Exchange writes a request to c unchanged and reads the answer. If the answer is 101,
// Exchange checks its headers and returns the upgraded connection. Otherwise the Conn
// is nil, and the caller reads the response's body and closes c. The caller sets
// deadlines. buffer is the initial size of the read buffer; 0 means 4 KiB.
func Exchange(c net.Conn, request string, buffer int) (*Conn, *http.Response, error) {
	if _, err := io.WriteString(c, request); err != nil {
		return nil, nil, err
	}
	method, _, _ := strings.Cut(request, " ")
	br := bufio.NewReaderSize(c, 512)
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return nil, nil, fmt.Errorf("no answer to the handshake: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, resp, nil
	}
	if err := checkUpgrade(request, resp.Header); err != nil {
		return nil, resp, err
	}
	early, _ := br.Peek(br.Buffered())
	return NewConn(c, early, cmp.Or(buffer, 4<<10)), resp, nil
}

// checkUpgrade returns an error if the headers h of a 101 answer do not complete the
// upgrade that request asks for, or if they negotiate an extension or a subprotocol.
func checkUpgrade(request string, h http.Header) error {
	const label = "\r\nsec-websocket-key:"
	key := ""
	if i := strings.Index(strings.ToLower(request), label); i >= 0 {
		key, _, _ = strings.Cut(request[i+len(label):], "\r\n")
	}
	want := accept(strings.TrimSpace(key))
	switch got := h.Get("Sec-WebSocket-Accept"); {
	case !strings.EqualFold(h.Get("Upgrade"), "websocket"), !strings.EqualFold(h.Get("Connection"), "upgrade"):
		return fmt.Errorf("the 101 answer is not an upgrade: %v", h)
	case got != want:
		return fmt.Errorf("the 101 answer has the wrong Sec-WebSocket-Accept %q; want %q", got, want)
	case h.Get("Sec-WebSocket-Extensions") != "" || h.Get("Sec-WebSocket-Protocol") != "":
		return fmt.Errorf("the 101 answer negotiates an extension or a subprotocol: %v", h)
	}
	return nil
}

// accept returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
