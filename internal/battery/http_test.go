package battery

import (
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
)

// send writes bytes, slowly if pause is set, and returns when the relay has
// ended the connection, with what it said.
func (n *node) send(text string, pause time.Duration) string {
	n.t.Helper()
	c, err := net.Dial("tcp", n.public)
	if err != nil {
		n.t.Error(err)
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() {
		for pause > 0 && len(text) > 0 {
			if _, err := io.WriteString(c, text[:1]); err != nil {
				return
			}
			text = text[1:]
			time.Sleep(pause)
		}
		_, _ = io.WriteString(c, text)
	}()
	answer, err := io.ReadAll(io.LimitReader(c, 4<<10))
	if nerr, ok := errors.AsType[net.Error](err); ok && nerr.Timeout() {
		n.t.Errorf("%.40q was not ended within %v", text, patience)
	}
	return string(answer)
}

func TestRow03SlowHeadersAreCut(t *testing.T) {
	parallel(t)
	n := start(t, nil)
	h := n.pair()
	given(t, "%d connections", 2*dose(20, 500))
	begun := time.Now()
	var all sync.WaitGroup
	for range dose(20, 500) {
		for _, text := range []string{"GET /v1/server HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("x", 100), "\x16\x03\x01\x02\x00\x01"} {
			all.Go(func() { n.send(text, 200*time.Millisecond) })
		}
	}
	all.Wait()
	if took := time.Since(begun); took > 5*time.Second+slack {
		t.Errorf("slow headers lived %v; want 5s", took)
	}
	h.check()
}

func TestRow04BigHeadersAreRefused(t *testing.T) {
	n := start(t, nil)
	h := n.pair()
	given(t, "5 kinds × %d", dose(3, 200))
	many := ""
	for i := range 1000 {
		many += fmt.Sprintf("X-Header-%d: %d\r\n", i, i)
	}
	head := "GET /v1/server HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: x\r\nX-Pyrycode-Version: 1\r\n"
	for name, tt := range map[string]struct{ text, want string }{
		"1 MiB":         {head + "X-Big: " + strings.Repeat("canary", 1<<20/6) + "\r\n\r\n", "431"},
		"1,000 headers": {head + many + "\r\n", "4"},
		"64 KiB id":     {head + "X-Pyrycode-Server: " + strings.Repeat("canary", 64<<10/6) + "\r\n\r\n", "431"},
		"4 KiB id":      {head + "X-Pyrycode-Server: " + strings.Repeat("canary", 4<<10/6) + "\r\n\r\n", "400"},
		"8 KiB id":      {head + "X-Pyrycode-Server: " + strings.Repeat("canary", 8<<10/6) + "\r\n\r\n", "431"},
		"control bytes": {head + "X-Pyrycode-Server: canary\x01\x1b[31m\r\n\r\n", "400"},
	} {
		for range dose(3, 200) {
			if got := n.send(tt.text, 0); !strings.HasPrefix(got, "HTTP/1.1 "+tt.want) || strings.Contains(got, "canary") {
				t.Errorf("%s: %.200q; want %s", name, got, tt.want)
			}
		}
	}
	if strings.Contains(n.log.String(), "canary") {
		t.Error("headers are echoed into the log")
	}
	h.check()
}

// attempt is the status of a phone's upgrade from an address; 101 if it went
// well.
func (n *node) attempt(id, from string) (status int, retry string) {
	c, resp, err := n.dial("/v1/client", id, from)
	if err == nil {
		c.Close()
		return 101, ""
	}
	if resp == nil {
		n.t.Errorf("from %s: %v", from, err)
		return 0, ""
	}
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

func TestRow05AnUpgradeFloodIsRefusedByAddress(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Rate, c.Burst = 0.01, 50 })
	h := n.pair() // two of the burst of 127.0.0.1
	given(t, "2 × %d upgrades of one address, %d of as many others", dose(200, 5000), dose(50, 2000))
	drained(n.slot("s"))
	flood := func(id, from string, want int) {
		t.Helper()
		got := make(map[int]int)
		for range dose(200, 5000) {
			status, retry := n.attempt(id, from)
			got[status]++
			if status == 429 && retry == "" {
				t.Fatal("429 without Retry-After")
			}
		}
		if got[101] != want || got[429] != dose(200, 5000)-want {
			t.Errorf("one address, to %s: %v; want %d through and 429 for the rest", id, got, want)
		}
	}
	flood("s", "127.0.0.2", 50)
	flood("nobody", "127.0.0.8", 100) // guesses of server-ids: as many again, and no more
	for i := range dose(50, 2000) {
		if status, _ := n.attempt("s", fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250)); status != 101 {
			t.Errorf("another address gets %d", status)
		}
	}
	h.check()
}

func TestRow06HeldConnectionsAreCappedByAddress(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxConnsPerAddress = 20; c.MaxPendingPerAddress = 10 })
	h := n.pair()
	given(t, "%d connections of one address", dose(60, 1000))
	status := make(map[int]int)
	for i := range dose(60, 1000) {
		c, resp, err := n.dial("/v1/server", fmt.Sprint("held", i), "127.0.0.3")
		if err == nil {
			defer c.Close()
			status[101]++
		} else if resp != nil {
			status[resp.StatusCode]++
		}
	}
	if status[101] != 20 || status[503] != dose(40, 980) {
		t.Errorf("one address: %v; want 20 through and 503 for the rest", status)
	}
	// And before the upgrade: ten may wait, more are cut.
	cut := 0
	for range 30 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 4)}}
		c, err := d.Dial("tcp", n.public)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	n.until("twenty are cut", func() bool {
		cut = int(n.metric(`pyrycode_relay_connections_cut_total{reason="pending_per_address"}`))
		return cut >= 20
	})
	if cut != 20 {
		t.Errorf("%d are cut; want 20", cut)
	}
	if status, _ := n.attempt("nobody", "127.0.0.5"); status != 101 {
		t.Errorf("another address gets %d", status)
	}
	h.check()
}

// Ten addresses take as many connections as each of them may have, which is all there
// are. Others still get in.
func TestRow06TenAddressesLeaveConnectionsToOthers(t *testing.T) {
	each := dose(60, 300)
	n := startChild(t, func(c *config.Config) { c.MaxConns, c.MaxConnsPerAddress = 10*each, each })
	h := n.pair()
	given(t, "10 addresses × %d connections, of %d", each, 10*each)
	held := 0
	for i := range 10 {
		for range each {
			c, _, err := n.dial("/v1/server", fmt.Sprint("held-", held), fmt.Sprintf("127.0.5.%d", 1+i))
			if err != nil {
				break
			}
			defer c.Close()
			held++
		}
	}
	others := 10*each - held - 2 // without the pair
	if others < each/2 {
		t.Errorf("ten addresses have %d connections of %d", held, 10*each)
	}
	for i := range others {
		if status, _ := n.attempt("nobody", fmt.Sprintf("127.0.6.%d", 1+i%250)); status != 101 {
			t.Errorf("another address gets %d", status)
		}
	}
	h.check()
}

func TestRow07ForgedAddressesDoNotCount(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Rate, c.Burst, c.TrustedProxies = 0.01, 10, []string{"127.0.0.9"} })
	h := n.pair()
	try := func(from, xff string) int {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		tr := &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}
		req, _ := http.NewRequest("GET", "http://"+n.public+"/v1/server", nil)
		req.Header.Set("X-Forwarded-For", xff)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	last := 0
	for i := range 11 {
		last = try("127.0.0.6", fmt.Sprintf("198.51.100.%d", i))
	}
	if last != 429 {
		t.Errorf("an untrusted peer that forges addresses gets %d at last; want 429", last)
	}
	for i := range 11 {
		last = try("127.0.0.9", fmt.Sprintf("198.51.100.%d, 203.0.113.1", i))
	}
	if last != 429 {
		t.Errorf("a client that forges addresses behind a proxy gets %d at last; want 429", last)
	}
	if got := try("127.0.0.9", "203.0.113.2"); got == 429 {
		t.Error("another client of the same proxy is refused too")
	}
	h.check()
}

func TestRow08ForeignOriginsAreRefused(t *testing.T) {
	n := start(t, func(c *config.Config) { c.AllowedOrigins = []string{"https://app.example"} })
	h := n.pair() // without an Origin
	for origin, want := range map[string]int{
		"https://evil.example": 403, "null": 403, "https://app.example.evil.example": 403, "http://app.example": 403,
		"https://app.example:444": 403, "https://APP.example": 101, "https://app.example": 101, "https://app.example/": 403,
	} {
		req, _ := http.NewRequest("GET", "http://"+n.public+"/v1/client", nil)
		for k, v := range map[string]string{"Origin": origin, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
			"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "X-Pyrycode-Server": "x", "User-Agent": "x"} {
			req.Header.Set(k, v)
		}
		resp, err := operator.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Origin %s: %d; want %d", origin, resp.StatusCode, want)
		}
	}
	h.check()
}
