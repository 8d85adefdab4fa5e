package clustertest

import (
	"bytes"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// TestBus tests two connections to the same bus against the contract of cluster.Bus.
func TestBus(t *testing.T, a, b cluster.Bus) {
	p := &pair{a: a, b: b}
	t.Run("messages come in order", p.messagesInOrder)
	t.Run("a request without a subscriber fails", p.requestWithoutSubscriber)
}

// pair is two connections to one bus.
type pair struct{ a, b cluster.Bus }

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
