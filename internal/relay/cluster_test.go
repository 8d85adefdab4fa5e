package relay

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// neighbours is a cluster as a test would have it. Whole nodes are tested
// in internal/cluster.
type neighbours struct {
	host *Host

	mu       sync.Mutex // guards all below
	claim    error      // what Claim says
	find     error      // what Find says
	fences   []*LeaseDeadline
	applied  int
	changes  int
	attempts int
}

func (n *neighbours) Attach(h *Host) { n.host = h }

func (n *neighbours) Claim(wire.ServerID, string, netip.Addr) (*LeaseDeadline, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attempts++
	if n.claim != nil {
		return nil, n.claim
	}
	f := n.host.NewLeaseDeadline()
	f.Move(time.Now().Add(time.Hour))
	n.fences = append(n.fences, f)
	return f, nil
}

func (n *neighbours) count(c *int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*c++
}

func (n *neighbours) ClaimApplied(wire.ServerID) { n.count(&n.applied) }
func (n *neighbours) Changed(wire.ServerID)      { n.count(&n.changes) }

func (n *neighbours) Find(wire.ServerID, netip.Addr) (RemoteSlot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return nil, n.find
}

func (n *neighbours) read(f func() int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return f()
}

func TestWhoHoldsAnIDIsAskedBeforeTheUpgrade(t *testing.T) {
	for _, tt := range []struct {
		name        string
		path        string
		claim, find error
		status      int
	}{
		{"a binary, the node is not known", "/v1/server", ErrUnknownHolder, nil, http.StatusServiceUnavailable},
		{"a phone, the node is not known", "/v1/client", nil, errors.New("no directory"), http.StatusServiceUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &neighbours{claim: tt.claim, find: tt.find}
			n := start(t, Config{Cluster: c})
			_, resp, err := wstest.Dial(n.url+tt.path, headers(wire.HeaderServer, "s1", wire.HeaderVersion, "1"))
			if resp != nil {
				body, _ := io.ReadAll(resp.Body)
				if strings.Contains(string(body), "try again") {
					t.Errorf("the answer says %q; Retry-After says already when to try again", body)
				}
			}
			if err == nil || resp == nil || resp.StatusCode != tt.status || resp.Header.Get("Retry-After") == "" {
				t.Errorf("dial: %v, %v; want %d with Retry-After", err, resp, tt.status)
			}
		})
	}
}

func TestABinaryAliveElsewhereIsAConflict(t *testing.T) {
	c := &neighbours{claim: ErrServerInUse}
	n := start(t, Config{Cluster: c})
	n.dial("/v1/server", headers(wire.HeaderServer, "s1", wire.HeaderVersion, "1")).WantClose(4409, wire.ReasonServerInUse)
	if got := c.read(func() int { return c.applied }); got != 0 {
		t.Errorf("applied %d times; no claim succeeded", got)
	}
}

// Each claim that succeeded is applied once, whatever becomes of it.
func TestEachClaimIsSettledOnce(t *testing.T) {
	c := &neighbours{}
	n := start(t, Config{Cluster: c, Probe: 50 * time.Millisecond})
	applied := func(want int) {
		t.Helper()
		n.until(func() bool { return c.read(func() int { return c.applied }) == want })
	}
	req, _ := http.NewRequest(http.MethodGet, "http"+n.url[2:]+"/v1/server", nil)
	req.Header = headers(wire.HeaderServer, "s1", wire.HeaderVersion, "1") // no upgrade
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	applied(1)
	silent := n.binary("s1") // the test does not read it
	applied(2)
	heir := n.dial("/v1/server", headers(wire.HeaderServer, "s1", wire.HeaderVersion, "1"))
	applied(3)
	silent.WantClose(1011, wire.ReasonHeartbeat)
	go heir.ReadMessage() // it answers pings
	n.dial("/v1/server", headers(wire.HeaderServer, "s1", wire.HeaderVersion, "1")).WantClose(4409, wire.ReasonServerInUse)
	applied(4)
	http.DefaultClient.CloseIdleConnections()
}

func TestNothingIsForwardedBehindTheFence(t *testing.T) {
	c := &neighbours{}
	n := start(t, Config{Cluster: c})
	bin := n.binary("s1")
	ph := n.phone("s1")
	ph.Send(`1`)
	bin.Recv()
	c.mu.Lock()
	c.fences[0].Close()
	c.mu.Unlock()
	ph.Send(`2`)
	ph.WantClose(1012, reasonLost)
	bin.Send(`{"conn_id":"c-0","frame":1}`)
	bin.WantClose(1012, reasonLost)
	n.until(func() bool { return c.read(func() int { return c.changes }) > 0 })
	n.until(func() bool { return c.host.Slot("s1") == SlotInGrace })
	c.host.Revoke("s1", false)
	if got := n.Counts(); got != (Counts{}) {
		t.Errorf("after the slot was revoked: %+v", got)
	}
}

func TestARevokedSlotTellsWhy(t *testing.T) {
	for _, tt := range []struct {
		reclaimed bool
		phone     int
		reason    string
	}{
		{false, 1012, reasonLost},
		{true, 4404, wire.ReasonReclaimed},
	} {
		c := &neighbours{}
		n := start(t, Config{Cluster: c})
		bin := n.binary("s1")
		ph := n.phone("s1")
		n.until(func() bool { return n.Counts().Phones == 1 })
		c.host.Revoke("s1", tt.reclaimed)
		ph.WantClose(tt.phone, tt.reason)
		bin.WantClose(1012, reasonLost)
	}
}
