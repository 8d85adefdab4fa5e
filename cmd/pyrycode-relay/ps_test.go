package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/status"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// connect dials an endpoint of the relay. It returns the status of the answer.
func (s served) connect(t *testing.T, path, id string) (*wstest.Peer, int) {
	t.Helper()
	c, resp, err := wstest.Dial("ws://"+s.public+path, http.Header{"User-Agent": {"test"}, "X-Pyrycode-Server": {id}, "X-Pyrycode-Version": {"9"}})
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	t.Cleanup(func() { c.Close() })
	return wstest.NewPeer(t, c), http.StatusSwitchingProtocols
}

// pair connects a binary and a phone, and sends a frame from the phone to the binary.
func (s served) pair(t *testing.T, id string) (binary, phone *wstest.Peer) {
	t.Helper()
	before := s.binaries(t)
	binary, _ = s.connect(t, "/v1/server", id)
	for end := time.Now().Add(patience); s.binaries(t) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the binary gets no slot")
		}
	}
	phone, _ = s.connect(t, "/v1/client", id)
	phone.Send(`"hello"`)
	binary.Recv()
	return binary, phone
}

// binaries returns the number of connected binaries.
func (s served) binaries(t *testing.T) int {
	t.Helper()
	resp, err := client.Get("http://" + s.public + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var h struct {
		Binaries int `json:"connected_binaries"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	return h.Binaries
}

// operator runs a command for the relay s. It fails the test unless the command returns
// code.
func (s served) operator(t *testing.T, code int, args ...string) outcome {
	t.Helper()
	got := call(t.Context(), []string{"PYRYCODE_RELAY_METRICS_LISTEN=" + s.private}, args...)
	if got.code != code {
		t.Fatalf("%v: %+v; want code %d", args, got, code)
	}
	return got
}

func TestPsListsTheConnections(t *testing.T) {
	s := serveHere(t)
	if got := s.operator(t, done, "ps"); !strings.HasPrefix(got.stdout, "CONN ") {
		t.Errorf("ps of an idle relay: %+v", got)
	}
	s.pair(t, "first")
	s.pair(t, "second")
	got := s.operator(t, done, "ps")
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	row := regexp.MustCompile(`^conn-1 +binary +serving 1 +fp-[0-9a-f]{16} +127\.0\.0\.1 +\d+s +- +0/\S+ +1/\S+ +0B$`)
	if len(lines) != 5 || !row.MatchString(lines[1]) {
		t.Errorf("ps prints\n%s", got.stdout)
	}
	if strings.Contains(got.stdout, "first") {
		t.Error("ps shows a server-id in full")
	}
	for args, want := range map[string]string{
		"ps --server-id first":               "conn-1 conn-2",
		"ps --server-id second --kind phone": "conn-4",
		"ps --state serving":                 "conn-1 conn-3",
		"ps --address 192.0.2.1":             "",
		"ps --limit 2":                       "conn-1 conn-2",
		"ps --sort waiting":                  "conn-1 conn-2 conn-3 conn-4",
		"ps --sort rate --interval 100ms --limit 1 --ids full": "conn-1",
	} {
		got := s.operator(t, done, append(strings.Fields(args), "--json")...)
		var list status.ConnectionList
		if err := json.Unmarshal([]byte(got.stdout), &list); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		var all []string
		for _, c := range list.Connections {
			all = append(all, c.Conn)
		}
		if strings.Join(all, " ") != want {
			t.Errorf("%s: %v; want %s", args, all, want)
		}
	}
	for args, want := range map[string]string{
		"ps --state gone":    `--state "gone": must be claiming`,
		"ps --kind binaries": `--kind "binaries": must be binary or phone; did you mean binary?`,
		"ps --sort size":     `--sort "size": must be rate, bytes or waiting`,
		"ps --address x":     `parameter address: "x" must be`,
	} {
		if got := s.operator(t, refused, strings.Fields(args)...); !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v; want %s", args, got, want)
		}
	}
	if got := s.operator(t, failed, "top"); !strings.Contains(got.stderr, "standard output is no terminal; use ps") {
		t.Errorf("top without a terminal: %+v", got)
	}
}

func TestKickBanAndUnban(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := serveHere(t, "--state-dir", dir)
	b, p := s.pair(t, "noisy")
	got := s.operator(t, done, "kick", "noisy", "--why", "too much")
	if want := regexp.MustCompile(`^fp-[0-9a-f]{16}: closed 1 binary and 1 phone\n$`); !want.MatchString(got.stdout) {
		t.Errorf("kick prints %q", got.stdout)
	}
	b.WantClose(1001, "disconnected by the operator")
	p.WantClose(1001, "disconnected by the operator")
	if got := s.operator(t, failed, "kick", "noisy"); !strings.Contains(got.stderr, "nothing is connected as fp-") {
		t.Errorf("kick again: %+v", got)
	}

	got = s.operator(t, done, "ban", "noisy", "--for", "30m", "--why", "again")
	if want := regexp.MustCompile(`^fp-\S+: banned until \S+ \S+ UTC; closed 0 binaries and 0 phones\n$`); !want.MatchString(got.stdout) {
		t.Errorf("ban prints %q", got.stdout)
	}
	for _, path := range []string{"/v1/server", "/v1/client"} {
		if _, status := s.connect(t, path, "noisy"); status != http.StatusForbidden {
			t.Errorf("%s: %d; want 403", path, status)
		}
	}
	got = s.operator(t, done, "bans")
	if want := regexp.MustCompile(`(?m)^fp-\S+ +\S+ \S+ +29m +.* again$`); !want.MatchString(got.stdout) {
		t.Errorf("bans prints\n%s", got.stdout)
	}
	s.operator(t, done, "unban", "noisy")
	if got := s.operator(t, failed, "unban", "noisy"); !strings.Contains(got.stderr, "there is no ban of fp-") {
		t.Errorf("unban again: %+v", got)
	}
	if got := s.operator(t, done, "bans"); got.stdout != "no bans\n" {
		t.Errorf("bans prints %q", got.stdout)
	}
	s.operator(t, done, "ban", "192.0.2.0/24")
	s.operator(t, done, "ban", "192.0.2.7", "--for", "2h")
	if got := s.operator(t, done, "ban", "192.0.2.7"); !strings.Contains(got.stdout, ", in place of ") {
		t.Errorf("a shorter ban prints %q", got.stdout)
	}
	if got := s.operator(t, done, "unban", "192.0.2.7"); !strings.Contains(got.stdout, "the ban of 192.0.2.0/24 still keeps it out") {
		t.Errorf("unban below a wider ban prints %q", got.stdout)
	}
	if got := s.operator(t, failed, "unban", "192.0.2.7"); !strings.Contains(got.stderr, "the ban of 192.0.2.0/24 keeps it out") {
		t.Errorf("unban again below a wider ban: %q", got.stderr)
	}
	s.operator(t, done, "unban", "192.0.2.0/24")
	s.pair(t, "noisy")
	for args, want := range map[string]string{
		"ban conn-1":        "what: conn-1 is a connection",
		"ban 0.0.0.0/0":     "what: 0.0.0.0/0 is not a network of /8 or narrower",
		"ban x --for 9000h": `for: "9000h0m0s" must be a time of up to 8784 hours`,
	} {
		if got := s.operator(t, refused, strings.Fields(args)...); !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %q; want %s", args, got.stderr, want)
		}
	}
	if got := s.operator(t, failed, "kick", "fp-0123456789abcdef"); !strings.Contains(got.stderr, "no connection, no slot in grace and no ban") {
		t.Errorf("kick of an unknown fingerprint: %q", got.stderr)
	}
}

func TestThePublicListenerChangesNothing(t *testing.T) {
	s := serveHere(t)
	for _, args := range []string{"ps", "kick x", "ban x", "unban x", "bans"} {
		got := call(t.Context(), nil, append(strings.Fields(args), "--at", s.public)...)
		if got.code != failed || !strings.Contains(got.stderr, "it is the public listener of a relay") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestCommandsReachAUnixSocket(t *testing.T) {
	at := "unix:" + filepath.Join(t.TempDir(), "private.sock")
	s := serveHere(t, "--metrics-listen", at)
	s.private = at
	s.pair(t, "one")
	for _, args := range []string{"healthcheck", "ps", "bans", "fingerprint --server-id one", "kick one"} {
		s.operator(t, done, strings.Fields(args)...)
	}
	got := call(t.Context(), nil, "ps", "--at", at+"x")
	if got.code != failed || !strings.Contains(got.stderr, "cannot reach "+at+"x: no such file or directory") {
		t.Errorf("another socket: %+v", got)
	}
	got = call(t.Context(), nil, "ps", "--at", "unix:relative")
	if got.code != refused || !strings.Contains(got.stderr, "must be unix: and an absolute path") {
		t.Errorf("a relative path: %+v", got)
	}
}

func TestTopDrawsWhatFitsIntoTheTerminal(t *testing.T) {
	now := time.Now()
	list := status.ConnectionList{Now: now}
	for range 50 {
		list.Connections = append(list.Connections, status.Connection{Conn: "conn-1", Kind: "phone", State: "joined",
			ServerID: "fp-0123456789abcdef", Address: "192.0.2.1", Since: now.Add(-time.Hour), Rate: &status.Rates{BytesIn: 3 << 20}})
	}
	text := draw(status.Status{Version: "v1", Binaries: 1, Phones: 50}, list, "rate", 60, 20)
	lines := strings.Split(strings.TrimSuffix(strings.TrimPrefix(text, home), clearBelow), "\r\n")
	if lines = lines[:len(lines)-1]; len(lines) != 19 {
		t.Errorf("%d lines; want 19 of 20", len(lines))
	}
	for _, line := range lines {
		if n := len(strings.TrimSuffix(line, clearRight)); n > 60 {
			t.Errorf("a line of %d columns: %q", n, line)
		}
	}
	if !strings.Contains(lines[0], "1 binary, 50 phones") {
		t.Errorf("the first line is %q", lines[0])
	}
}

func TestSizesAndTimesAreShort(t *testing.T) {
	for n, want := range map[float64]string{0: "0B", 999: "999B", 1000: "1.0KiB", 1536: "1.5KiB", 20 << 10: "20KiB", 3 << 20: "3.0MiB", 5 << 40: "5.0TiB", 5 << 50: "5120TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%g) is %s; want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 119 * time.Second: "1m", 90 * time.Minute: "1h30m", 50 * time.Hour: "2d2h"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) is %s; want %s", d, got, want)
		}
	}
}
