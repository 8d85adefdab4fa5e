package cluster_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// scripted is a directory with keep-alives that a test defines. The sessions never expire.
type scripted struct {
	Directory
	keepAlive func(number int) error
	began     time.Time // of the first session

	mu      sync.Mutex      // guards all below
	sent    []time.Duration // the times of the keep-alives since the begin
	granted SessionID       // the last one
}

func (d *scripted) session() SessionID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.granted
}

func (d *scripted) times() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sent)
}

func (d *scripted) Grant(time.Duration) (SessionID, error) {
	if d.began.IsZero() {
		d.began = time.Now()
	}
	id, err := d.Directory.Grant(time.Hour)
	d.mu.Lock()
	d.granted = id
	d.mu.Unlock()
	return id, err
}

func (d *scripted) KeepAlive(SessionID) error {
	d.mu.Lock()
	d.sent = append(d.sent, time.Since(d.began))
	number := len(d.sent)
	d.mu.Unlock()
	return d.keepAlive(number)
}

// alone is the network of a node without others.
type alone struct{}

func (alone) Dial(string, func(relay.Socket, error)) {}
func (alone) Listen(func(relay.Socket))              {}
func (alone) Address() string                        { return "alone" }

// withSession runs f with a node that has claimed s1 and the default times: the time to live
// is 5 s, the margin 500 ms, and keep-alives are sent each second.
func withSession(t *testing.T, keepAlive func(number int) error, f func(d *scripted, n *Node, until *relay.LeaseDeadline)) {
	synctest.Test(t, func(t *testing.T) {
		m := clustertest.NewMemory(nil)
		defer m.Close()
		p := m.Port()
		d := &scripted{Directory: p, keepAlive: keepAlive}
		n, err := New(Config{Directory: d, Network: alone{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := relay.New(relay.Config{Cluster: n}); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer time.Sleep(time.Minute) // calls that are under way end
		defer n.Close()
		until, err := n.Claim("s1", "", netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		f(d, n, until)
	})
}

// passes checks that the lease deadline passes at that time after the begin.
func passes(t *testing.T, d *scripted, until *relay.LeaseDeadline, at time.Duration) {
	t.Helper()
	const before = time.Millisecond
	time.Sleep(time.Until(d.began.Add(at - before)))
	if until.Passed() {
		t.Errorf("the lease deadline has passed %v after the begin; want %v", at-before, at)
	}
	time.Sleep(2 * before)
	if !until.Passed() {
		t.Errorf("the lease deadline has not passed %v after the begin; want %v", at+before, at)
	}
}

func TestTheLeaseDeadlineCountsFromTheSendingOfAKeepAlive(t *testing.T) {
	slow := func(number int) error {
		if number > 2 {
			return errors.New("no answer")
		}
		time.Sleep(900 * time.Millisecond)
		return nil
	}
	withSession(t, slow, func(d *scripted, _ *Node, until *relay.LeaseDeadline) {
		passes(t, d, until, 2*time.Second+4500*time.Millisecond)
	})
}

func TestAKeepAliveWithoutAnAnswerDelaysNoOther(t *testing.T) {
	stuck := func(number int) error {
		if number == 1 {
			time.Sleep(3 * time.Second)
		}
		return nil
	}
	withSession(t, stuck, func(d *scripted, _ *Node, until *relay.LeaseDeadline) {
		time.Sleep(3500 * time.Millisecond)
		sent := d.times()
		for i, at := range sent {
			if want := time.Duration(i+1) * time.Second; at != want {
				t.Errorf("keep-alive %d was sent at %v; want %v", i+1, at, want)
			}
		}
		if len(sent) != 3 {
			t.Errorf("%d keep-alives; want 3", len(sent))
		}
	})
}

func TestAFailedKeepAliveIsRepeatedSoon(t *testing.T) {
	failing := func(number int) error {
		if number < 4 {
			return errors.New("refused")
		}
		return nil
	}
	withSession(t, failing, func(d *scripted, _ *Node, until *relay.LeaseDeadline) {
		time.Sleep(3 * time.Second)
		if sent, want := d.times(), 1750*time.Millisecond; len(sent) < 4 || sent[3] != want {
			t.Errorf("keep-alives were sent at %v; want the fourth at %v", sent, want)
		}
	})
}

// The directory confirms a keep-alive that was sent before the lease deadline, after it.
func TestAnAnswerAfterTheLeaseDeadlineChangesNothing(t *testing.T) {
	late := func(number int) error {
		time.Sleep(4 * time.Second)
		return nil
	}
	withSession(t, late, func(d *scripted, n *Node, until *relay.LeaseDeadline) {
		passes(t, d, until, 4500*time.Millisecond)
		time.Sleep(5 * time.Second)
		if !until.Passed() {
			t.Error("a session that was lost serves again")
		}
	})
}

// A node serves nothing after the end of its session, and begins another one.
func TestASessionThatHasEndedIsReplaced(t *testing.T) {
	ended := func(number int) error {
		if number == 1 {
			return ErrSessionGone
		}
		return nil
	}
	withSession(t, ended, func(d *scripted, n *Node, until *relay.LeaseDeadline) {
		passes(t, d, until, time.Second)
		n.ClaimApplied("s1")
		time.Sleep(time.Second)
		again, err := n.Claim("s1", "", netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		if again == until || again.Passed() || !until.Passed() {
			t.Errorf("the new claim's lease deadline: the same %t, passed %t; the old one's: passed %t", again == until, again.Passed(), until.Passed())
		}
	})
}

func TestANodeStopsServingWhenTheWatchReportsTheEndOfItsSession(t *testing.T) {
	withSession(t, func(int) error { return nil }, func(d *scripted, n *Node, until *relay.LeaseDeadline) {
		time.Sleep(1500 * time.Millisecond)
		id := d.session()
		if err := d.Revoke(id); err != nil { // as an etcd leader does that was frozen
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		if !until.Passed() {
			t.Error("the node serves under a session that the directory has ended")
		}
		time.Sleep(time.Second)
		if d.session() == id {
			t.Error("the node has no new session")
		}
	})
}
