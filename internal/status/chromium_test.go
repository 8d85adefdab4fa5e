package status

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// browser is a page of a headless Chromium, spoken to by its DevTools protocol.
type browser struct {
	t      *testing.T
	conn   *websocket.Conn
	id     int
	wrongs []string // what the console was told
	loaded int
}

func openBrowser(t *testing.T) *browser {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium here, so the page was NOT looked at in a browser")
	}
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+dir,
		"--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		// Its helpers may write until they notice; TempDir must find an end.
		for end := time.Now().Add(5 * time.Second); os.RemoveAll(dir) != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		}
	})
	b := &browser{t: t}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if b.conn, err = dialBrowser(filepath.Join(dir, "DevToolsActivePort")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("chromium cannot be spoken to: %v", err)
		}
	}
	t.Cleanup(func() { b.conn.Close() })
	for _, domain := range []string{"Page", "Log", "Runtime"} {
		b.call(domain+".enable", nil)
	}
	return b
}

func dialBrowser(portFile string) (*websocket.Conn, error) {
	text, err := os.ReadFile(portFile)
	if err != nil {
		return nil, err
	}
	port, _, _ := strings.Cut(string(text), "\n")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + port + "/json/list")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var pages []struct {
		Type string `json:"type"`
		URL  string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&pages); err != nil {
		return nil, err
	}
	for _, p := range pages {
		if p.Type == "page" {
			c, _, err := websocket.DefaultDialer.Dial(p.URL, nil)
			return c, err
		}
	}
	return nil, fmt.Errorf("no page among %v", pages)
}

// call calls a method and takes in the events that come before its answer.
func (b *browser) call(method string, params any) json.RawMessage {
	b.t.Helper()
	b.id++
	if err := b.conn.WriteJSON(map[string]any{"id": b.id, "method": method, "params": params}); err != nil {
		b.t.Fatal(err)
	}
	for {
		if m := b.next(); m.ID == b.id {
			if m.Error != nil {
				b.t.Fatalf("%s: %s", method, m.Error)
			}
			return m.Result
		}
	}
}

type message struct {
	ID            int
	Method        string
	Params        json.RawMessage
	Result, Error json.RawMessage
}

func (b *browser) next() (m message) {
	b.t.Helper()
	_ = b.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if err := b.conn.ReadJSON(&m); err != nil {
		b.t.Fatal(err)
	}
	switch m.Method {
	case "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown":
		b.wrongs = append(b.wrongs, string(m.Params))
	case "Page.loadEventFired":
		b.loaded++
	}
	return m
}

func (b *browser) open(url string) {
	b.t.Helper()
	before := b.loaded
	b.call("Page.navigate", map[string]any{"url": url})
	for b.loaded == before {
		b.next()
	}
}

func (b *browser) eval(script string, into any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	if err := json.Unmarshal(b.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}), &r); err != nil || r.ExceptionDetails != nil {
		b.t.Fatalf("%v %s", err, r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, into); err != nil {
		b.t.Fatal(err)
	}
}

// contrasts returns the texts that stand out too little from what is behind
// them: less than 4.5 to 1, as WCAG asks.
const contrasts = `(() => {
	const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
	const lum = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
	const bad = [];
	for (const e of document.querySelectorAll('body *')) {
		if (e.closest('svg') || ![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue;
		let at = e, back = [0, 0, 0, 0];
		while (at && (back = parse(getComputedStyle(at).backgroundColor))[3] == 0) at = at.parentElement;
		const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(back)].sort((x, y) => y - x);
		const ratio = (a + .05) / (b + .05);
		if (ratio < 4.5) bad.push(e.textContent.trim() + ' ' + ratio.toFixed(2));
	}
	return bad;
})()`

// topToBottom names the parts of the page in the order in which they show.
const topToBottom = `(() => {
	const last = document.querySelector('main>section:last-of-type');
	const parts = {state: '.state', big: '.big', limits: '.limits', traffic: '.traffic', process: '.process'};
	const at = Object.entries(parts).map(([name, s]) => [name, document.querySelector(s)])
		.concat([['left', last.firstElementChild], ['turned', last.lastElementChild]]);
	return at.map(([name, e]) => [name, e.getBoundingClientRect().top]).sort((a, b) => a[1] - b[1] || (a[0] < b[0] ? 1 : -1)).map(p => p[0]).join(' ');
})()`

// overlapping returns the time axes with a label that touches the one before.
const overlapping = `(() => {
	const n = [];
	for (const axis of document.querySelectorAll('.axis')) {
		let end = -1;
		for (const text of axis.querySelectorAll('text')) {
			const r = text.getBoundingClientRect();
			if (r.width == 0) continue;
			if (r.left < end) n.push(axis.textContent + " " + r.left + " " + end + " " + axis.getBoundingClientRect().width);
			end = r.right;
		}
	}
	return n;
})()`

// In a real browser: nothing is blocked or complained about, the numbers
// show, nothing is wider than a phone's screen, all of it can be read, in
// light and in dark.
func TestThePageInABrowser(t *testing.T) {
	b := newBoard()
	b.binaries.Set(1234)
	b.phones.Set(56789)
	b.notAfter.Set(float64(time.Now().Add(80 * time.Hour).Unix()))
	b.reason = "draining"
	for i, code := range []string{"1000", "1001", "1011", "4404", "4409"} {
		b.closes.WithLabelValues("relay", code).Add(float64(i * 1000))
	}
	b.attempts.WithLabelValues("client", "reject_rate_limit").Add(3)
	srv := httptest.NewServer(b)
	defer srv.Close()
	browser := openBrowser(t)
	for _, width := range []int{390, 1280} {
		browser.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
		for _, scheme := range []string{"light", "dark"} {
			browser.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}})
			browser.open(srv.URL + "/?still")
			var text, font string
			var wide int
			var faint []string
			browser.eval(`document.body.innerText`, &text)
			browser.eval(`document.documentElement.scrollWidth`, &wide)
			browser.eval(`getComputedStyle(document.querySelector('.number')).fontSize`, &font)
			browser.eval(contrasts, &faint)
			for _, want := range []string{"1,234", "56,789", "Not ready: draining", "96 of 100", "3 days left"} {
				if !strings.Contains(text, want) {
					t.Errorf("%d %s: %q does not show", width, scheme, want)
				}
			}
			if wide > width {
				t.Errorf("%d %s: the page is %d wide", width, scheme, wide)
			}
			if font == "16px" {
				t.Errorf("%d %s: the page has no style", width, scheme)
			}
			var order string
			browser.eval(topToBottom, &order)
			if want := map[int]string{390: "state big limits turned left traffic process", 1280: "state big traffic process limits turned left"}[width]; !strings.HasPrefix(order, want) {
				t.Errorf("%d %s: from top to bottom: %s; want %s", width, scheme, order, want)
			}
			if len(faint) > 0 {
				t.Errorf("%d %s: too faint: %q", width, scheme, faint)
			}
		}
	}
	for _, width := range []int{320, 390, 800, 1280} {
		browser.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
		ages := []time.Duration{0, time.Minute, 17 * time.Minute, 59 * time.Minute, 5 * time.Hour, 18 * time.Hour, 30 * time.Hour}
		// The last mark is as near to the label of now as it may be.
		sinceMark := time.Since(time.Now().Truncate(5 * time.Minute))
		ages = append(ages, max(10*time.Minute+time.Second, time.Duration(float64(sinceMark)/(1-lastTick))))
		for _, age := range ages {
			b.started = time.Now().Add(-age)
			browser.open(srv.URL + "/?still")
			var overlaps []string
			if browser.eval(overlapping, &overlaps); len(overlaps) > 0 {
				t.Errorf("%d wide, %v old: labels of time axes overlap: %q", width, age, overlaps)
			}
		}
	}
	if len(browser.wrongs) > 0 {
		t.Errorf("the console was told: %s", browser.wrongs)
	}
}
