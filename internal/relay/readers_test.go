package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// However many connections have long messages, they are read in a bounded number of
// tasks, and a network with one connection waits for one step of each other network.
func TestConnectionsWithLongMessagesAreReadInTurnsOfTheirNetworks(t *testing.T) {
	var mu sync.Mutex
	var tasks []func()
	r, err := New(Config{Runtime: Runtime{Processors: 2, Go: func(name string, f func()) {
		mu.Lock()
		defer mu.Unlock()
		if name == "reader" {
			tasks = append(tasks, f)
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	add := func(i int, from string) {
		c := new(conn)
		c.init(r, r.settings.Load(), &tellingSocket{tell: func() { order = append(order, from) }}, netip.MustParseAddr(from), new(idler),
			&r.settings.Load().phoneLimits, 1<<20, 1<<20)
		c.stepState.Store(running)
		r.readers.add(c)
	}
	for i := range 8 {
		add(i, "192.0.2.1")
	}
	add(8, "192.0.2.2")
	add(9, "192.0.2.2")
	if len(tasks) != 2 {
		t.Fatalf("%d tasks read 10 connections; want 2", len(tasks))
	}
	for _, task := range tasks {
		task()
	}
	if at := slices.Index(order, "192.0.2.2"); len(order) != 10 || at != 1 {
		t.Errorf("read in the order %v; want a turn of 192.0.2.2 in the second step", fmt.Sprint(order))
	}
	if r.readers.tasks != 0 {
		t.Errorf("%d tasks are left; want none", r.readers.tasks)
	}
}

// tellingSocket calls tell when it is read, and has nothing to read.
type tellingSocket struct {
	fakeSocket
	tell func()
}

func (s *tellingSocket) TryRead([]byte) (n int, more bool, err error) {
	s.tell()
	return 0, false, nil
}
