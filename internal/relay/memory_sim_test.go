package relay

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// unit is a size of messages in this file.
const unit = 64 << 10

// Whatever messages come and go, and however the budget changes: each message that waits
// for room gets it, the accounts add up, and only one message of each address goes on
// without room.
func TestSimulatedMemoryGivesEveryMessageItsRoom(t *testing.T) {
	engine.Test(t, func(r *engine.Run) {
		rt := Runtime{NewLock: func(name string) sync.Locker { return r.NewLock(name) }, Go: r.Go}.WithDefaults()
		var m *memory
		m = newMemory(&rt, func() { r.Sleep(time.Duration(r.Intn(2)) * time.Second); m.relieved() })
		relay := &Relay{rt: rt, memory: m}
		budget := (8 + r.Intn(24)) * unit
		relay.LimitMemory(budget)
		readers := engine.NewWaitGroup(r)
		for i := range 2 + r.Intn(5) {
			from := netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i%2)})
			readers.Go("reader", func() {
				l := new(load)
				m.open(l, from, 0)
				for range 1 + r.Intn(4) {
					read(r, l, (1+r.Intn(16))*unit, budget)
				}
				l.setOutbox(unit)
				l.setSocket(unit)
				l.close()
			})
		}
		if r.Intn(2) == 0 {
			readers.Go("operator", func() {
				r.Sleep(time.Duration(r.Intn(5)) * time.Second)
				relay.LimitMemory(budget / (1 + r.Intn(2)))
			})
		}
		readers.Wait()
		if m.total != 0 || len(m.accounts) != 0 || len(m.blocked) != 0 {
			r.Fail("rest", "%d bytes, %d accounts and %d blocked accounts are left; want none", m.total, len(m.accounts), len(m.blocked))
		}
	})
}

// read reserves n bytes for a message, waits for them if it must, and frees them. Now and
// then the connection is closed while its message waits. most is the highest budget.
func read(r *engine.Run, l *load, n, most int) {
	room := engine.NewChan[bool](r, "room", 1)
	if !l.reserve(n, func() { room.Send(true) }) {
		closer := r.Intn(6) == 0
		if closer {
			r.Go("closer", func() {
				r.Sleep(time.Second)
				l.close()
				room.Send(false)
			})
		}
		if ok, _ := room.Recv(); !ok {
			return
		}
		if closer {
			room.Recv() // or the start of the message may find the channel full
		}
	}
	m := l.memory
	m.mu.Lock()
	a := l.account
	held := a.held - 2*unit*a.loads // the rest has no limit
	if a.first != nil {
		held -= a.first.reader
	}
	switch {
	case l.over:
	case l.reader < n:
		r.Fail("reserved", "%d bytes are reserved for a message of %d", l.reader, n)
	case held > most:
		r.Fail("room", "an address holds %d bytes of %d without the message that needs no room", held, most)
	}
	m.mu.Unlock()
	if err := m.check(nil); err != nil {
		r.Fail("sum", "%v", err)
	}
	r.Sleep(time.Duration(r.Intn(3)) * time.Second)
	l.setReader(0)
}
