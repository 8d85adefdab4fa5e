package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// operate posts a request of an operator. It returns the status and the body.
func (d *running) operate(path, content string, headers ...string) (int, string) {
	d.t.Helper()
	return operateAt(d.t, client, "http://"+d.private+path, content, append([]string{OperatorHeader, "1"}, headers...)...)
}

func operateAt(t *testing.T, c *http.Client, url, content string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// dialBinary connects a binary. The answer is not nil if it is refused.
func (d *running) dialBinary(id string) (*wstest.Conn, *http.Response) {
	d.t.Helper()
	c, resp, err := wstest.Dial("ws://"+d.public+"/v1/server", http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, wire.HeaderVersion: {"1"}})
	if err != nil && resp == nil {
		d.t.Fatal(err)
	}
	if c != nil {
		d.t.Cleanup(func() { c.Close() })
		return c, nil
	}
	return nil, resp
}

// hold connects a binary and waits until it holds its slot.
func (d *running) hold(id string) *wstest.Conn {
	d.t.Helper()
	before := d.p.relay.Counts().Binaries
	c, resp := d.dialBinary(id)
	if c == nil {
		d.t.Fatalf("the binary of %s is refused: %s", id, resp.Status)
	}
	for end := time.Now().Add(patience); d.p.relay.Counts().Binaries == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("the binary of %s does not get its slot", id)
		}
	}
	return c
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestAnOperatorDisconnectsAndBans(t *testing.T) {
	d := start(t, t.Context(), func(c *config.Config) { c.LogServerIDs = config.FingerprintServerIDs })
	c := d.hold("secret-1")
	fp := d.p.showServerID("secret-1")

	status, body := d.operate(KickPath, fmt.Sprintf(`{"what":%q,"why":"too\nnoisy"}`, fp))
	if got := decode[OperatorAnswer](t, body); status != 200 || got.Binaries != 1 || got.What != fp {
		t.Fatalf("kick: %d %s", status, body)
	}
	wstest.NewPeer(t, c).WantClose(1001, "disconnected by the operator")
	// It has gone, and its fingerprint is known still.
	status, body = d.operate(BansPath, fmt.Sprintf(`{"what":%q,"why":"again","for":"10m"}`, fp))
	got := decode[OperatorAnswer](t, body)
	if left := time.Until(*got.Until); status != 200 || left < 9*time.Minute || left > 10*time.Minute || got.Saved {
		t.Fatalf("ban: %d %s", status, body)
	}
	if _, resp := d.dialBinary("secret-1"); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("the banned binary gets %v; want 403", resp)
	}
	_, _, list := get(t, "http://"+d.private+BansPath)
	bans := decode[BanList](t, list)
	if len(bans.Bans) != 1 || bans.Bans[0].Label != fp || bans.Bans[0].Why != "again" || bans.Saved {
		t.Errorf("bans: %s", list)
	}
	for i, want := range []bool{true, false} {
		status, body = d.operate(UnbanPath, fmt.Sprintf(`{"what":%q}`, bans.Bans[0].What[:20]))
		if got := decode[OperatorAnswer](t, body); status != 200 || got.Lifted != want {
			t.Errorf("unban %d: %d %s; want lifted %t", i+1, status, body, want)
		}
		if want {
			d.hold("secret-1")
		}
	}
	log := d.log.String()
	for _, want := range []string{
		`operator_action action=kick what=` + fp + ` why=too\\nnoisy by="not known: the listener asks for no password" remote=127.0.0.1:\d+ outcome=done count=1`,
		`operator_action action=ban what=` + fp + ` why=again .* outcome=done count=0`,
		`operator_action action=unban what=` + fp + ` .* outcome=done count=0`,
		`server_released close_code=1001 err="disconnected by the operator"`,
	} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, "secret-1") {
		t.Error("the log has the server-id")
	}
	_, _, metrics := get(t, "http://"+d.private+"/metrics")
	for _, want := range []string{
		`pyrycode_relay_operator_actions_total{action="kick",outcome="done"} 1`,
		`pyrycode_relay_operator_actions_total{action="ban",outcome="done"} 1`,
		`pyrycode_relay_operator_actions_total{action="unban",outcome="done"} 1`,
		`pyrycode_relay_operator_closes_total 1`,
		`pyrycode_relay_bans 0`,
		`pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_banned"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

func TestWrongRequestsOfOperatorsAreRefused(t *testing.T) {
	d := start(t, t.Context(), nil)
	for _, tt := range []struct {
		path, content string
		status        int
		said          string
	}{
		{KickPath, ``, 400, "content: must be one JSON object"},
		{KickPath, `{"who":"x"}`, 400, "content: must be one JSON object"},
		{KickPath, `{"what":""}`, 400, "what: must be"},
		{KickPath, `{"what":"` + strings.Repeat("x", 300) + `"}`, 400, "what: must be"},
		{KickPath, `{"what":"` + strings.Repeat("x", 5000) + `"}`, 413, "content: must have at most 4096 bytes"},
		{KickPath, `{"what":"s1"}x`, 400, "content: must be one JSON object and nothing after it"},
		{KickPath, "{\"what\":\"\xff\"}", 400, "content: must be UTF-8"},
		{KickPath, `{"what":"s1","for":"1h"}`, 400, "for: kick takes none"},
		{KickPath, `{"what":"fp-0123456789abcdef"}`, 409, "what: fp-0123456789abcdef: no connection"},
		{BansPath, `{"what":"10.0.0.0/4"}`, 400, "what: 10.0.0.0/4 is not a network of /8 or narrower"},
		{BansPath, `{"what":"conn-1"}`, 400, "what: conn-1 is a connection"},
		{BansPath, `{"what":"s1","for":"forever"}`, 400, `for: "forever" must be a time`},
		{BansPath, `{"what":"s1","for":"-1h"}`, 400, `for: "-1h" must be a time`},
		{BansPath, `{"what":"s1","for":"10000h"}`, 400, `for: "10000h" must be a time of up to 8784 hours`},
		{UnbanPath, `{"what":"sha256:zz"}`, 400, "what: "},
	} {
		status, body := d.operate(tt.path, tt.content)
		if status != tt.status || !strings.HasPrefix(body, tt.said) {
			t.Errorf("%s %.60s: %d %s; want %d %s", tt.path, tt.content, status, body, tt.status, tt.said)
		}
	}
	if status, body := operateAt(t, client, "http://"+d.private+KickPath, `{"what":"s1"}`); status != 403 || !strings.HasPrefix(body, "header x-pyrycode-operator: must be set") {
		t.Errorf("without the header: %d %s; want 403", status, body)
	}
	if status, _, _ := get(t, "http://"+d.private+KickPath); status != 405 {
		t.Errorf("GET: %d; want 405", status)
	}
	if n := strings.Count(d.log.String(), "operator_action"); n != 0 {
		t.Errorf("%d records of refused requests; want none", n)
	}
}

func TestNothingChangesWithoutAPasswordThroughAReachableListener(t *testing.T) {
	d := start(t, t.Context(), nil)
	for _, s := range d.p.listeners {
		if s.Server != d.p.private {
			continue
		}
		if err := d.p.mayChange(); err != nil {
			t.Errorf("on loopback: %v", err)
		}
	}
	d.p.listeners = append(d.p.listeners, served{Server: d.p.private, Listener: elsewhere{}})
	defer func() { d.p.listeners = d.p.listeners[:len(d.p.listeners)-1] }()
	if status, body := d.operate(KickPath, `{"what":"s1"}`); status != 403 || !strings.HasPrefix(body, "the private listener can be reached from other machines and asks for no password") {
		t.Errorf("in a private network: %d %s; want 403", status, body)
	}
}

// elsewhere is a listener that other machines reach.
type elsewhere struct{ net.Listener }

func (elsewhere) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 9090} }
func (elsewhere) Close() error   { return nil }

// overUnix returns a client of the private listener at a Unix socket.
func overUnix(path string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}}
}

func TestThePrivateListenerOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.sock")
	d := start(t, t.Context(), func(c *config.Config) { c.MetricsListen = "unix:" + path })
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v; want mode 0660", info.Mode(), err)
	}
	d.hold("s1")
	c := overUnix(path)
	status, body := operateAt(t, c, "http://localhost"+KickPath, `{"what":"s1"}`, OperatorHeader, "1")
	if got := decode[OperatorAnswer](t, body); status != 200 || got.Binaries != 1 {
		t.Errorf("kick: %d %s", status, body)
	}
	if want := fmt.Sprintf(`by="uid %d" remote=unix`, os.Getuid()); !strings.Contains(d.log.String(), want) {
		t.Errorf("the log does not say %s:\n%s", want, d.log)
	}
	if status, _ := operateAt(t, c, "http://evil.example"+KickPath, `{"what":"s1"}`, OperatorHeader, "1"); status != 421 {
		t.Errorf("another host: %d; want 421", status)
	}
	d.signals <- os.Interrupt
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

func TestAnOldSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	c := config.Default()
	c.Listen, c.MetricsListen = "127.0.0.1:0", "unix:"+path
	err = Run(t.Context(), c, Env{Log: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("next to a live one: %v", err)
	}
	ln.Close()
	start(t, t.Context(), func(c *config.Config) { c.MetricsListen = "unix:" + path })
	resp, err := overUnix(path).Get("http://localhost/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("after an old one: %s", resp.Status)
	}
}

func TestBansSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first := start(t, t.Context(), func(c *config.Config) { c.StateDir = dir })
	for _, content := range []string{`{"what":"s1","why":"a \"reason\""}`, `{"what":"192.0.2.0/24","for":"2h"}`, `{"what":"s3"}`} {
		status, body := first.operate(BansPath, content)
		if got := decode[OperatorAnswer](t, body); status != 200 || !got.Saved {
			t.Fatalf("%s: %d %s", content, status, body)
		}
	}
	if status, body := first.operate(UnbanPath, `{"what":"s3"}`); status != 200 {
		t.Fatalf("unban: %d %s", status, body)
	}
	_, _, before := get(t, "http://"+first.private+BansPath)
	first.signals <- os.Interrupt
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, bansName))
	if err != nil || bytes.Contains(text, []byte(`"s1"`)) {
		t.Errorf("the file has the server-id, or: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, bansName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v; want mode 0600", info.Mode(), err)
	}

	second := start(t, t.Context(), func(c *config.Config) { c.StateDir = dir })
	_, _, after := get(t, "http://"+second.private+BansPath)
	if b, a := decode[BanList](t, before), decode[BanList](t, after); len(a.Bans) != 2 || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("after the restart %s; want %s", after, before)
	}
	if _, resp := second.dialBinary("s1"); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("the banned binary gets %v; want 403", resp)
	}
	second.hold("s3")
}

func TestAMistypedAddressIsNoServerID(t *testing.T) {
	for text, want := range map[string]bool{
		"192.0.2.300": true, "10.0.0.0/33": true, "2001:db8::g/64": false, "2001:db8::/129": true, "fp-zzzz": true,
		"s1": false, "550e8400-e29b-41d4-a716-446655440000": false, "cafe": false, "1234": false, "home.example": false,
	} {
		if got := likeAddress(text); got != want {
			t.Errorf("likeAddress(%q) = %t; want %t", text, got, want)
		}
	}
}

// A record of a node with a clock that is ahead must not outweigh what an operator does now.
func TestTheLastBanCountsWhateverTheClocksSay(t *testing.T) {
	ahead := time.Now().Add(time.Hour)
	d := startWithBans(t, banRecord{What: "192.0.2.0/24", Made: ahead, Until: ahead.Add(time.Hour), Lifted: true})
	if status, body := d.operate(BansPath, `{"what":"192.0.2.0/24"}`); status != 200 {
		t.Fatalf("ban: %d %s", status, body)
	}
	if _, _, body := get(t, "http://"+d.private+BansPath); len(decode[BanList](t, body).Bans) != 1 {
		t.Errorf("after the ban: %s", body)
	}
	if status, body := d.operate(UnbanPath, `{"what":"192.0.2.0/24"}`); status != 200 || !decode[OperatorAnswer](t, body).Lifted {
		t.Errorf("unban: %d %s", status, body)
	}
	if _, _, body := get(t, "http://"+d.private+BansPath); len(decode[BanList](t, body).Bans) != 0 {
		t.Errorf("after the unban: %s", body)
	}
}

func TestGoodBansOutliveABadRecord(t *testing.T) {
	now := time.Now()
	d := startWithBans(t, banRecord{What: "of a later version", Made: now, Until: now.Add(time.Hour)},
		banRecord{What: "192.0.2.0/24", Made: now, Until: now.Add(time.Hour)})
	if _, _, body := get(t, "http://"+d.private+BansPath); len(decode[BanList](t, body).Bans) != 1 {
		t.Errorf("after the start: %s", body)
	}
	if !strings.Contains(d.log.String(), "the file of bans has a mistake") {
		t.Errorf("the log does not say it:\n%s", d.log)
	}
}

// startWithBans starts a relay with these records in its file of bans.
func startWithBans(t *testing.T, bans ...banRecord) *running {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(bansFile{Version: 1, Bans: bans})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, bansName), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return start(t, t.Context(), func(c *config.Config) { c.StateDir = dir })
}

func TestABrokenFileOfBansIsKeptAside(t *testing.T) {
	good := `{"what":"192.0.2.0/24","made":"2026-01-01T00:00:00Z","until":"2100-01-01T00:00:00Z"}`
	for name, text := range map[string]string{
		"cut":             `{"version":1,"bans":[`,
		"of no version":   `{"bans":[]}`,
		"with a bad key":  `{"version":1,"bans":[` + good + `,{"what":"x"}]}`,
		"of another kind": `[]`,
		"with a long ban": `{"version":1,"bans":[` + good + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, bansName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			d := start(t, t.Context(), func(c *config.Config) { c.StateDir = dir })
			if !strings.Contains(d.log.String(), "the file of bans has a mistake") {
				t.Errorf("the log does not say it:\n%s", d.log)
			}
			aside, err := filepath.Glob(filepath.Join(dir, bansName+".broken-*"))
			if err != nil || len(aside) != 1 {
				t.Fatalf("kept aside: %v, %v; want one file", aside, err)
			}
			if kept, err := os.ReadFile(aside[0]); err != nil || string(kept) != text {
				t.Errorf("it has %s, %v", kept, err)
			}
			if _, body := d.operate(BansPath, `{"what":"s1"}`); !decode[OperatorAnswer](t, body).Saved {
				t.Errorf("the next ban: %s; want it saved", body)
			}
		})
	}
}

func TestABanThatCannotBeSavedIsInForce(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := start(t, t.Context(), func(c *config.Config) { c.StateDir = dir })
	d.p.operations.store.path = filepath.Join(dir, "gone", bansName)
	status, body := d.operate(BansPath, `{"what":"s1"}`)
	if got := decode[OperatorAnswer](t, body); status != 200 || got.Saved || got.NotSaved == "" {
		t.Errorf("ban: %d %s; want the reason why it is not saved", status, body)
	}
	if _, resp := d.dialBinary("s1"); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("the banned binary gets %v; want 403", resp)
	}
}

func TestBehindAProxyTheClientsAddressIsBanned(t *testing.T) {
	d := start(t, t.Context(), func(c *config.Config) { c.TrustedProxies = []string{"127.0.0.1"} })
	from := func(client string) (status int) {
		c, resp, err := wstest.Dial("ws://"+d.public+"/v1/server", http.Header{"User-Agent": {"test"},
			wire.HeaderServer: {"of " + client}, wire.HeaderVersion: {"1"}, "X-Forwarded-For": {client}})
		if err != nil {
			if resp == nil {
				t.Fatal(err)
			}
			return resp.StatusCode
		}
		t.Cleanup(func() { c.Close() })
		return http.StatusSwitchingProtocols
	}
	if status, body := d.operate(BansPath, `{"what":"192.0.2.7"}`); status != 200 {
		t.Fatalf("ban: %d %s", status, body)
	}
	for client, want := range map[string]int{"192.0.2.7": http.StatusForbidden, "192.0.2.8": http.StatusSwitchingProtocols} {
		if got := from(client); got != want {
			t.Errorf("a client at %s gets %d; want %d", client, got, want)
		}
	}
}
