package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// dialer opens connections to one relay with one server-id.
type dialer struct {
	base, server, version string
	timeout               time.Duration
	proxy                 func(*http.Request) (*url.URL, error)
	key                   *claimKey // nil: claims are bound to no key
}

// proxyFor returns the proxy on the way to the relay, or nil.
func (d *dialer) proxyFor() *url.URL {
	u, err := url.Parse("http" + strings.TrimPrefix(d.base, "ws"))
	if err != nil || d.proxy == nil {
		return nil
	}
	proxy, _ := d.proxy(&http.Request{URL: u}) // the dial reports the same error
	return proxy
}

// peer is one connection to the relay, as a binary or as a phone. Its reader answers
// pings.
type peer struct {
	name string // for sentences: "the binary", "phone 2"
	conn *websocket.Conn
	in   chan []byte   // messages, until the connection ends
	done chan struct{} // closed when messages are to be dropped

	once sync.Once // closes done

	mu     sync.Mutex
	frames map[string]bool // of a binary: the frames of await, true if they have passed through it

	ended chan struct{} // closed when the connection has ended
	err   error         // why; set before ended is closed
}

// The endpoints of the relay.
const (
	binaryPath = "/v1/server"
	phonePath  = "/v1/client"
)

// binary opens a connection that claims the server-id.
func (d *dialer) binary(ctx context.Context) (*peer, error) {
	h := http.Header{"X-Pyrycode-Version": {d.version}}
	if d.key != nil {
		u, err := url.Parse(d.base)
		if err != nil {
			return nil, err
		}
		h.Set("X-Pyrycode-Claim-Key", d.key.header(u.Host, d.server, time.Now()))
	}
	return d.dial(ctx, "the binary", binaryPath, h)
}

// The relay may still be deciding the claim of the binary when the phone connects, and it
// does not announce its decision. Until then the phone finds no binary, or the former
// holder of the server-id.
const (
	noServer        = 4404
	firstRetryAfter = 20 * time.Millisecond
	lastRetryAfter  = 500 * time.Millisecond
)

// errOtherBinary means that a frame came back, but not through the binary of this process:
// another binary has the server-id.
var errOtherBinary = errors.New("another binary answers for the server-id")

// undecided reports whether err, the error of p's first round trip, can mean that the
// relay has not decided the binary's claim yet.
func undecided(p *peer, err error) bool {
	return errors.Is(err, errOtherBinary) || websocket.IsCloseError(p.err, noServer)
}

// phone joins the server-id and makes a first round trip. The round trip shows that the
// phone has joined and, unless binary is nil, that binary holds the server-id. phone
// tries again while the relay may still be deciding the claim of binary. With a nil
// binary it tries once, because this process has no pending claim.
func (d *dialer) phone(ctx context.Context, name string, binary *peer) (*peer, time.Duration, error) {
	deadline := time.Now().Add(d.timeout)
	for pause := firstRetryAfter; ; pause = min(2*pause, lastRetryAfter) {
		p, err := d.dial(ctx, name, phonePath, http.Header{"X-Pyrycode-Device-Name": {"pyrycode-relay probe"}})
		if err != nil {
			return nil, 0, err
		}
		took, err := p.roundTrip(ctx, d.timeout, binary)
		if err == nil {
			return p, took, nil
		}
		p.close()
		if undecided(p, err) && binary != nil && binary.over() {
			return nil, 0, d.notHeld(binary)
		}
		if !undecided(p, err) || binary == nil || time.Now().Add(pause).After(deadline) {
			return nil, 0, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, 0, errInterrupted
		}
	}
}

// dial opens one connection. The error is a sentence for the user.
func (d *dialer) dial(ctx context.Context, name, path string, h http.Header) (*peer, error) {
	h.Set("X-Pyrycode-Server", d.server)
	h.Set("User-Agent", "pyrycode-relay-probe/"+d.version)
	ws := websocket.Dialer{HandshakeTimeout: d.timeout, Proxy: d.proxy}
	conn, resp, err := ws.DialContext(ctx, endpointURL(d.base, path), h)
	switch {
	case err == nil:
	case errors.Is(err, websocket.ErrBadHandshake) && resp != nil:
		return nil, &failure{failRefused, refusal(name, shownURL(d.base), resp)}
	case ctx.Err() != nil:
		return nil, errInterrupted
	default:
		return nil, explain(err, target{base: shownURL(d.base), timeout: d.timeout, proxy: d.proxyFor()})
	}
	p := &peer{name: name, conn: conn, in: make(chan []byte), done: make(chan struct{}), ended: make(chan struct{})}
	go p.read()
	return p, nil
}

// endpointURL returns the address of the endpoint at path, for a relay at base. Base may be
// the address that access token add prints: the binary's endpoint with a token. Phones have
// none, and connect to the same host.
func endpointURL(base, path string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base + path // the dial says what is wrong
	}
	before, token, ok := strings.Cut(u.Path, "/t/")
	if !ok || token == "" {
		return base + path
	}
	if path == binaryPath {
		return base
	}
	u.Path = before + path
	return u.String()
}

// shownURL returns the URL of a relay without the token in its path, for people.
func shownURL(base string) string {
	if before, _, ok := strings.Cut(base, "/t/"); ok {
		return before + "/t/…"
	}
	return base
}

// refusal returns an HTTP answer other than 101 as an error.
func refusal(name, base string, resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
	s := fmt.Sprintf("the relay refused %s: HTTP %s", name, resp.Status)
	if text := strings.TrimSpace(string(body)); text != "" {
		s += ": " + strings.Trim(strconv.Quote(text), `"`)
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		s += " (try again in " + strings.Trim(strconv.Quote(after), `"`) + " s)"
	}
	if hint := refusalHint(base, resp, string(body)); hint != "" {
		s += "; " + hint
	}
	return errors.New(s)
}

// read reads messages until the connection ends.
func (p *peer) read() {
	defer close(p.ended)
	for {
		_, msg, err := p.conn.ReadMessage()
		if err != nil {
			p.err = err
			return
		}
		select {
		case p.in <- msg:
		case <-p.done:
		}
	}
}

// over reports whether the connection has ended.
func (p *peer) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// why returns the reason for the end of the connection, which must have ended.
func (p *peer) why() error { return &failure{failClosed, p.reason()} }

func (p *peer) reason() error {
	c, ok := errors.AsType[*websocket.CloseError](p.err)
	switch {
	case ok && c.Code != websocket.CloseAbnormalClosure:
		return fmt.Errorf("the relay closed %s: %s", p.name,
			strings.TrimSpace(fmt.Sprintf("%d %s", c.Code, strings.Trim(strconv.Quote(c.Text), `"`))))
	case ok || errors.Is(p.err, io.EOF):
		return fmt.Errorf("the connection of %s broke off without a close", p.name)
	}
	return fmt.Errorf("the connection of %s broke: %w", p.name, p.err)
}

// await makes echo record when frame passes through the binary p. seen reports whether it
// has, and removes the record.
func (p *peer) await(frame []byte) (seen func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frames == nil {
		p.frames = make(map[string]bool)
	}
	p.frames[string(frame)] = false
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		was := p.frames[string(frame)]
		delete(p.frames, string(frame))
		return was
	}
}

// passed records that frame has passed through the binary p.
func (p *peer) passed(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.frames[string(frame)]; ok {
		p.frames[string(frame)] = true
	}
}

// roundTrip sends a frame from the phone p and waits until it comes back from the binary.
// If the binary is in another process, binary is nil. If binary is not nil and the frame
// has not passed through it, the error is errOtherBinary.
func (p *peer) roundTrip(ctx context.Context, timeout time.Duration, binary *peer) (time.Duration, error) {
	frame := fmt.Appendf(nil, `{"v":2,"type":"noise_msg","data":%q}`, base64.StdEncoding.EncodeToString([]byte(rand.Text())))
	seen := func() bool { return true }
	if binary != nil {
		seen = binary.await(frame)
		defer seen()
	}
	begun := time.Now()
	_ = p.conn.SetWriteDeadline(begun.Add(timeout))
	_ = p.conn.WriteMessage(websocket.TextMessage, frame) // on failure the reader gets the reason
	var lost <-chan struct{}
	if binary != nil {
		lost = binary.ended
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case got := <-p.in:
		if !bytes.Equal(got, frame) {
			return 0, &failure{failFrame, fmt.Errorf("%s got another frame than it sent: %d bytes, sent %d", p.name, len(got), len(frame))}
		}
		took := time.Since(begun)
		if !seen() {
			return 0, &failure{failOther, errOtherBinary}
		}
		return took, nil
	case <-p.ended:
		return 0, p.why()
	case <-lost:
		return 0, binary.why()
	case <-late.C:
		return 0, &failure{failTimeout, fmt.Errorf("the frame of %s did not come back within %s", p.name, timeout)}
	case <-ctx.Done():
		return 0, errInterrupted
	}
}

// echo sends each frame back to its phone. Envelopes have the same form in both
// directions, so each envelope goes back unchanged.
func (p *peer) echo() {
	for {
		select {
		case msg := <-p.in:
			var e struct {
				Frame json.RawMessage `json:"frame"`
			}
			if json.Unmarshal(msg, &e) == nil && e.Frame != nil {
				p.passed(e.Frame)
				_ = p.conn.WriteMessage(websocket.TextMessage, msg)
			}
		case <-p.ended:
			return
		}
	}
}

// discard makes the reader drop all further messages, so that it continues to answer
// pings.
func (p *peer) discard() { p.once.Do(func() { close(p.done) }) }

// goodbye is the longest time for the relay's answer to a close.
const goodbye = time.Second

// close sends a close message, waits for the answer, and closes the connection.
func (p *peer) close() {
	p.discard()
	_ = p.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(goodbye))
	select {
	case <-p.ended:
	case <-time.After(goodbye):
	}
	_ = p.conn.Close()
	<-p.ended
}
