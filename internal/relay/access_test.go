package relay

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// accessList is an Access that a test changes.
type accessList struct {
	changed func()
	asked   chan AccessQuestion // gets each question, unless it is nil
	refusal *AccessRefusal      // of every question, unless it is nil

	mu    sync.Mutex
	terms map[wire.ServerID]Terms
	bound map[wire.ServerID]string // the grant that has claimed a server-id
}

func newAccessList(ids ...wire.ServerID) *accessList {
	l := &accessList{terms: make(map[wire.ServerID]Terms), bound: make(map[wire.ServerID]string)}
	for _, id := range ids {
		l.terms[id] = Terms{}
	}
	return l
}

func (l *accessList) Attach(changed func()) { l.changed = changed }

func (l *accessList) Ask(q AccessQuestion) (Terms, error) {
	if l.asked != nil {
		l.asked <- q
	}
	if l.refusal != nil {
		return Terms{}, l.refusal
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.terms[q.Server]
	if !ok && !q.Phone {
		return t, &AccessRefusal{Status: http.StatusForbidden, Text: "not on the list"}
	}
	t.Grant = q.Token
	return t, nil
}

func (l *accessList) Claimed(id wire.ServerID, grant string) bool {
	if !l.Allowed(id, grant) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bound[id] = grant
	return true
}

func (l *accessList) Allowed(id wire.ServerID, grant string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.terms[id]
	bound, taken := l.bound[id]
	return ok && (!taken || bound == grant)
}

// boundTo returns the grant that has claimed id.
func (l *accessList) boundTo(id wire.ServerID) (grant string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	grant, ok = l.bound[id]
	return grant, ok
}

// free removes the binding of id.
func (l *accessList) free(id wire.ServerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.bound, id)
}

// rebind binds id to another grant.
func (l *accessList) rebind(id wire.ServerID, grant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bound[id] = grant
}

// remove removes id without a call of changed.
func (l *accessList) remove(id wire.ServerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.terms, id)
}

// answerOf dials path and returns the answer over HTTP: its status, and its text.
func (n *node) answerOf(path string, h http.Header) (*http.Response, string) {
	n.t.Helper()
	c, resp, err := wstest.Dial(n.url+path, h)
	if err == nil {
		_ = c.Close()
		n.t.Fatalf("%s was upgraded", path)
	}
	if resp == nil {
		n.t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	return resp, strings.TrimSpace(string(body))
}

func TestABinaryWithoutAccessIsRefusedBeforeItsUpgrade(t *testing.T) {
	n := start(t, Config{Access: newAccessList("s1")})
	joined(t, n.binary("s1"), n.phone("s1"))
	for _, path := range []string{"/v1/server", "/v2/server", "/t/secret"} {
		if resp, text := n.answerOf(path, binaryHeaders("s2")); resp.StatusCode != 403 || text != "not on the list" {
			t.Errorf("%s: %d %q; want 403 and the reason", path, resp.StatusCode, text)
		}
	}
	n.wantMetric("ws_upgrade_attempts_total", "server/reject_access", 3)
	n.wantMetric("register_failures_total", "no_access", 3)
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestARefusalHasTheStatusAndTheWaitOfTheAccess(t *testing.T) {
	for _, tt := range []struct {
		refusal AccessRefusal
		outcome string
		wait    string
	}{
		{AccessRefusal{401, 0, "no token"}, "reject_access", ""},
		{AccessRefusal{429, 7, "too often"}, "reject_rate_limit", "7"},
		{AccessRefusal{503, 5, "unknown"}, "reject_access_unknown", "5"},
	} {
		l := newAccessList()
		l.refusal = &tt.refusal
		n := start(t, Config{Access: l})
		for _, path := range []string{"/v1/server", "/v1/client"} {
			resp, text := n.answerOf(path, binaryHeaders("s1"))
			if resp.StatusCode != tt.refusal.Status || text != tt.refusal.Text || resp.Header.Get("Retry-After") != tt.wait {
				t.Errorf("%s: %d %q %v; want %+v", path, resp.StatusCode, text, resp.Header["Retry-After"], tt.refusal)
			}
		}
		n.wantMetric("ws_upgrade_attempts_total", "server/"+tt.outcome, 1)
		n.wantMetric("ws_upgrade_attempts_total", "client/"+tt.outcome, 1)
	}
}

func TestTheQuestionHasWhatThePeerSent(t *testing.T) {
	l := newAccessList("s1")
	l.asked = make(chan AccessQuestion, 1)
	n := start(t, Config{Access: l})
	local := func(q AccessQuestion) AccessQuestion {
		q.From = q.From.Unmap()
		if !q.From.IsLoopback() {
			t.Errorf("asked for the address %v", q.From)
		}
		q.From = AccessQuestion{}.From
		return q
	}
	n.dial("/t/a-token", binaryHeaders("s1"))
	if got, want := local(<-l.asked), (AccessQuestion{Server: "s1", Version: "1", Token: "a-token"}); got != want {
		t.Errorf("asked %+v; want %+v", got, want)
	}
	n.dial("/v1/client", headers(wire.HeaderServer, "s1", wire.HeaderDevice, "phone\t1"))
	if got, want := local(<-l.asked), (AccessQuestion{Phone: true, Server: "s1", Device: `phone\t1`}); got != want {
		t.Errorf("asked %+v; want %+v", got, want)
	}
}

func TestAServerIDThatLosesItsAccessIsClosed(t *testing.T) {
	l := newAccessList("s1", "s2", "s3")
	n := start(t, Config{Access: l, Grace: time.Minute})
	b, other := n.binary("s1"), n.binary("s2")
	p := n.phone("s1")
	joined(t, b, p)
	n.binary("s3").Reset()
	waits := n.phone("s3") // in grace
	n.wantCounts(Counts{Binaries: 2, InGrace: 1, Phones: 2})

	l.remove("s1")
	l.remove("s3")
	l.changed()
	b.WantClose(1001, reasonNoAccess)
	p.WantClose(1001, reasonNoAccess)
	waits.WantClose(1001, reasonNoAccess)
	n.wantCounts(Counts{Binaries: 1})
	n.wantMetric("operator_closes_total", "", 3)
	joined(t, other, n.phone("s2"))
	n.phone("s1").WantClose(4404, "no server with that id")
}

// The access is lost between the question and the claim.
func TestABinaryThatLosesItsAccessWhileItClaimsGetsNoSlot(t *testing.T) {
	l := newAccessList("s1")
	n := start(t, Config{Access: l, Probe: 50 * time.Millisecond})
	n.silent("s1")
	rival := n.dial("/v1/server", binaryHeaders("s1"))
	l.remove("s1") // without a call of changed: only the claim can notice it
	rival.WantClose(1001, reasonNoAccess)
	n.wantCounts(Counts{Binaries: 1}) // the incumbent, which only changed closes
	n.wantMetric("ws_upgrade_attempts_total", "server/reject_access", 1)
	n.wantMetric("ws_upgrade_attempts_total", "server/accept", 1)
}

// Between a change and the call of changed, another grant may get the server-id.
func TestTheAccessOfABinaryIsThatOfItsOwnGrant(t *testing.T) {
	l := newAccessList("s1", "s2", "s3")
	n := start(t, Config{Access: l, Grace: time.Minute})
	b, other := n.dial("/t/old", binaryHeaders("s1")), n.dial("/t/old", binaryHeaders("s2"))
	n.wantCounts(Counts{Binaries: 2})
	p := n.phone("s1")
	joined(t, b, p)
	third := n.dial("/t/old", binaryHeaders("s3"))
	n.wantCounts(Counts{Binaries: 3, Phones: 1})
	third.Reset()
	n.wantCounts(Counts{Binaries: 2, InGrace: 1, Phones: 1})
	l.rebind("s1", "new")
	l.rebind("s3", "new")
	l.changed()
	b.WantClose(1001, reasonNoAccess)
	p.WantClose(1001, reasonNoAccess)
	n.wantCounts(Counts{Binaries: 1})
	joined(t, other, n.phone("s2"))
}

func TestAClaimWithoutAServiceBindsNothing(t *testing.T) {
	l := newAccessList("plain", "held")
	n := start(t, Config{Access: l, Probe: patience})
	req, err := http.NewRequest(http.MethodGet, strings.Replace(n.url, "ws", "http", 1)+"/t/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = binaryHeaders("plain")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a request that is no upgrade: %d; want 400", resp.StatusCode)
	}
	if by, ok := l.boundTo("plain"); ok {
		t.Errorf("a request that is no upgrade has bound its server-id to %q", by)
	}

	n.binary("held").Echo() // it answers pings
	n.wantMetric("ws_upgrade_attempts_total", "server/accept", 1)
	if _, ok := l.boundTo("held"); !ok {
		t.Error("a binary that got its slot has not bound its server-id")
	}
	l.free("held")
	n.dial("/t/b", binaryHeaders("held")).WantClose(4409, "server-id already claimed")
	if by, ok := l.boundTo("held"); ok {
		t.Errorf("a claim that met its incumbent has bound its server-id to %q", by)
	}
}

func TestAServerIDHasItsOwnLimitOfPhones(t *testing.T) {
	l := newAccessList()
	l.terms["s1"], l.terms["s2"] = Terms{MaxPhones: 2}, Terms{MaxPhones: 9}
	n := start(t, Config{Access: l, MaxPhones: 3})
	for id, most := range map[string]int{"s1": 2, "s2": 3} {
		b := n.binary(id)
		for range most {
			joined(t, b, n.phone(id))
		}
		n.phone(id).WantClose(4429, "too many phones for server-id")
	}
}
