// Package conform is the promises of cluster.Store and cluster.Bus as tests.
package conform

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// patience is how long a test waits for what must happen.
const patience = 15 * time.Second

// Both is one node's connection.
type Both interface {
	cluster.Store
	cluster.Bus
}

// Run tests two connections to the same directory and bus.
func Run(t *testing.T, a, b Both) {
	const ttl = 30 * time.Second
	var mu sync.Mutex
	seen := make(map[string]string) // what b has watched: newest value, or gone
	if err := b.Watch(t.Context(), func(e cluster.Entry) {
		mu.Lock()
		defer mu.Unlock()
		seen[e.Key] = "gone"
		if e.Value != nil {
			seen[e.Key] = string(e.Value)
		}
	}); err != nil {
		t.Fatal(err)
	}
	watched := func(key, want string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			got := seen[key]
			mu.Unlock()
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("watched %s: %q; want %q", key, got, want)
			}
		}
	}
	get := func(s cluster.Store, key string) string {
		t.Helper()
		e, err := s.Get(key)
		if errors.Is(err, cluster.ErrNotFound) {
			return "gone"
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(e.Value)
	}
	t.Run("one of many creates", func(t *testing.T) {
		for i := range 20 {
			key := fmt.Sprintf("c.one%d", i)
			var wg sync.WaitGroup
			won := make(chan string, 6)
			for j := range 6 {
				wg.Go(func() {
					s := []Both{a, b}[j%2]
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
			watched(key, <-won)
		}
	})
	t.Run("an update needs the newest revision", func(t *testing.T) {
		rev, err := a.Create("c.update", []byte("1"), ttl)
		if err != nil {
			t.Fatal(err)
		}
		newer, err := b.Update("c.update", []byte("2"), rev, ttl)
		if err != nil || newer <= rev {
			t.Fatalf("update = %d, %v after revision %d", newer, err, rev)
		}
		if _, err := a.Update("c.update", []byte("3"), rev, ttl); !errors.Is(err, cluster.ErrConflict) {
			t.Errorf("update of an old revision: %v; want a conflict", err)
		}
		if _, err := a.Update("c.none", []byte("3"), 7, ttl); !errors.Is(err, cluster.ErrConflict) {
			t.Errorf("update of nothing: %v; want a conflict", err)
		}
		if got := get(a, "c.update"); got != "2" {
			t.Errorf("got %q; want 2", got)
		}
		watched("c.update", "2")
	})
	t.Run("a purge needs it too, and frees the key", func(t *testing.T) {
		rev, err := a.Create("c.purge", []byte("1"), ttl)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Purge("c.purge", rev+1); !errors.Is(err, cluster.ErrConflict) {
			t.Errorf("purge of another revision: %v; want a conflict", err)
		}
		if err := b.Purge("c.purge", rev); err != nil {
			t.Fatal(err)
		}
		watched("c.purge", "gone")
		again, err := a.Create("c.purge", []byte("2"), ttl)
		if err != nil || again <= rev {
			t.Errorf("create after a purge = %d, %v; want more than %d", again, err, rev)
		}
		watched("c.purge", "2")
	})
	t.Run("what is not renewed expires; what is does not", func(t *testing.T) {
		const short = time.Second // the least that NATS has
		if _, err := a.Create("c.short", []byte("1"), short); err != nil {
			t.Fatal(err)
		}
		rev, err := a.Create("c.kept", []byte("1"), short)
		if err != nil {
			t.Fatal(err)
		}
		if rev, err = a.Update("c.kept", []byte("2"), rev, 20*short); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Create("c.renewed", []byte("1"), 20*short); err != nil {
			t.Fatal(err)
		}
		e, err := a.Get("c.renewed")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Update("c.renewed", []byte("2"), e.Revision, short); err != nil {
			t.Fatal(err)
		}
		watched("c.short", "gone")
		watched("c.renewed", "gone") // a renewal keeps the time to live
		if got := get(b, "c.kept"); got != "2" {
			t.Errorf("the renewed entry is %q; want 2", got)
		}
		if err := a.Purge("c.kept", rev); err != nil {
			t.Error(err)
		}
	})
	t.Run("messages come in order", func(t *testing.T) {
		const n = 1000
		got := make(chan int, n)
		if err := b.Subscribe("pyrycode.test.order", func(m cluster.Message) { got <- int(m.Data[0])<<8 | int(m.Data[1]) }); err != nil {
			t.Fatal(err)
		}
		b.Subscribe("pyrycode.test.ready", func(m cluster.Message) { m.Reply([]byte("yes")) })
		for end := time.Now().Add(patience); ; {
			if r, err := a.Request("pyrycode.test.ready", []byte("?"), time.Second); err == nil && bytes.Equal(r, []byte("yes")) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("no reply")
			}
		}
		buf := make([]byte, 2)
		for i := range n {
			buf[0], buf[1] = byte(i>>8), byte(i)
			if err := a.Publish("pyrycode.test.order", buf); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			select {
			case x := <-got:
				if x != i {
					t.Fatalf("message %d came in place %d", x, i)
				}
			case <-time.After(patience):
				t.Fatalf("message %d did not come", i)
			}
		}
	})
	t.Run("a request to nobody fails", func(t *testing.T) {
		if _, err := a.Request("pyrycode.test.nobody", []byte("?"), 100*time.Millisecond); err == nil {
			t.Error("somebody replied")
		}
	})
}
