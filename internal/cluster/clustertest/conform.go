package clustertest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// patience is how long a test waits for an event that must happen.
const patience = 15 * time.Second

// ttl is the lifetime of entries that no test waits to expire.
const ttl = 30 * time.Second

// Connection is one node's connection to a directory and a bus.
type Connection interface {
	cluster.Store
	cluster.Bus
}

// TestConnections tests two connections to the same directory and bus against the
// contracts of cluster.Store and cluster.Bus.
func TestConnections(t *testing.T, a, b Connection) {
	p := &pair{a: a, b: b, seen: make(map[string]string)}
	if err := b.Watch(t.Context(), p.watch); err != nil {
		t.Fatal(err)
	}
	t.Run("one of many creates", p.oneOfManyCreates)
	t.Run("an update needs the newest revision", p.updateNeedsRevision)
	t.Run("a purge needs the newest revision and frees the key", p.purgeNeedsRevision)
	t.Run("an entry expires unless it is renewed", p.entriesExpire)
	t.Run("messages come in order", p.messagesInOrder)
	t.Run("a request without a subscriber fails", p.requestWithoutSubscriber)
}

// pair is two connections; b watches.
type pair struct {
	a, b Connection

	mu   sync.Mutex        // guards seen
	seen map[string]string // the newest value of each key that b has watched, or gone
}

const gone = "gone"

func (p *pair) watch(e cluster.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[e.Key] = gone
	if e.Value != nil {
		p.seen[e.Key] = string(e.Value)
	}
}

// watched waits until b has watched that the newest value of key is want.
func (p *pair) watched(t *testing.T, key, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		got := p.seen[key]
		p.mu.Unlock()
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("watched %s: %q; want %q", key, got, want)
		}
	}
}

func create(t *testing.T, s cluster.Store, key, value string, ttl time.Duration) (revision uint64) {
	t.Helper()
	revision, err := s.Create(key, []byte(value), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func wantConflict(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, cluster.ErrConflict) {
		t.Errorf("%s: %v; want a conflict", what, err)
	}
}

func wantValue(t *testing.T, s cluster.Store, key, want string) {
	t.Helper()
	if e, err := s.Get(key); err != nil || string(e.Value) != want {
		t.Errorf("%s is %q, %v; want %q", key, e.Value, err, want)
	}
}

func (p *pair) oneOfManyCreates(t *testing.T) {
	for i := range 20 {
		key := fmt.Sprintf("c.one%d", i)
		var wg sync.WaitGroup
		won := make(chan string, 6)
		for j := range 6 {
			wg.Go(func() {
				s := []Connection{p.a, p.b}[j%2]
				_, err := s.Create(key, []byte(fmt.Sprint(j)), ttl)
				switch {
				case err == nil:
					won <- fmt.Sprint(j)
				case !errors.Is(err, cluster.ErrConflict):
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%s: %d won; want 1", key, len(won))
		}
		p.watched(t, key, <-won)
	}
}

func (p *pair) updateNeedsRevision(t *testing.T) {
	rev := create(t, p.a, "c.update", "1", ttl)
	newer, err := p.b.Update("c.update", []byte("2"), rev, ttl)
	if err != nil || newer <= rev {
		t.Fatalf("update = %d, %v after revision %d", newer, err, rev)
	}
	_, err = p.a.Update("c.update", []byte("3"), rev, ttl)
	wantConflict(t, "update of an old revision", err)
	_, err = p.a.Update("c.none", []byte("3"), 7, ttl)
	wantConflict(t, "update without an entry", err)
	wantValue(t, p.a, "c.update", "2")
	p.watched(t, "c.update", "2")
}

func (p *pair) purgeNeedsRevision(t *testing.T) {
	rev := create(t, p.a, "c.purge", "1", ttl)
	wantConflict(t, "purge of another revision", p.b.Purge("c.purge", rev+1))
	if err := p.b.Purge("c.purge", rev); err != nil {
		t.Fatal(err)
	}
	p.watched(t, "c.purge", gone)
	if again := create(t, p.a, "c.purge", "2", ttl); again <= rev {
		t.Errorf("create after a purge has revision %d; want more than %d", again, rev)
	}
	p.watched(t, "c.purge", "2")
}

func (p *pair) entriesExpire(t *testing.T) {
	const short = time.Second // the shortest lifetime that NATS has
	create(t, p.a, "c.short", "1", short)
	rev := create(t, p.a, "c.kept", "1", short)
	rev, err := p.a.Update("c.kept", []byte("2"), rev, 20*short)
	if err != nil {
		t.Fatal(err)
	}
	create(t, p.a, "c.renewed", "1", 20*short)
	e, err := p.a.Get("c.renewed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.a.Update("c.renewed", []byte("2"), e.Revision, short); err != nil {
		t.Fatal(err)
	}
	p.watched(t, "c.short", gone)
	p.watched(t, "c.renewed", gone) // the lifetime is that of the renewal
	wantValue(t, p.b, "c.kept", "2")
	if err := p.a.Purge("c.kept", rev); err != nil {
		t.Error(err)
	}
}

func (p *pair) messagesInOrder(t *testing.T) {
	const n = 1000
	got := make(chan int, n)
	if err := p.b.Subscribe("pyrycode.test.order", func(m cluster.Message) { got <- int(m.Data[0])<<8 | int(m.Data[1]) }); err != nil {
		t.Fatal(err)
	}
	if err := p.b.Subscribe("pyrycode.test.ready", func(m cluster.Message) { m.Reply([]byte("yes")) }); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; {
		if r, err := p.a.Request("pyrycode.test.ready", []byte("?"), time.Second); err == nil && bytes.Equal(r, []byte("yes")) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no reply")
		}
	}
	buf := make([]byte, 2)
	for i := range n {
		buf[0], buf[1] = byte(i>>8), byte(i)
		if err := p.a.Publish("pyrycode.test.order", buf); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		select {
		case x := <-got:
			if x != i {
				t.Fatalf("message %d arrived as number %d", x, i)
			}
		case <-time.After(patience):
			t.Fatalf("message %d did not come", i)
		}
	}
}

func (p *pair) requestWithoutSubscriber(t *testing.T) {
	if _, err := p.a.Request("pyrycode.test.none", []byte("?"), 100*time.Millisecond); err == nil {
		t.Error("a reply came")
	}
}
