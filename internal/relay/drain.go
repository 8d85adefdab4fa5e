package relay

import (
	endian "encoding/binary"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// drainGrain is how far apart two rounds of a drain are at least.
const drainGrain = 10 * time.Millisecond

// shutdownState is whether a drain has begun, and with which code it closes.
type shutdownState struct{ with atomic.Uint32 }

func (p *shutdownState) begun() bool          { return p.with.Load() != 0 }
func (p *shutdownState) code() wire.CloseCode { return wire.CloseCode(p.with.Load()) }

// drain closes the connections of a relay that ends. A binary is closed
// together with its phones: a phone that outlived its binary would find
// nobody and could not wait for it either, as nobody is let in any more.
type drain struct {
	relay  *Relay
	spread time.Duration
	began  time.Time
	queue  []shutdownEntry // in the order in which they are closed
	done   int             // of them
}

// shutdownEntry is what is closed at one moment: a slot, or a phone whose slot is at
// another node.
type shutdownEntry struct {
	slot    wire.ServerID
	proxied joiner // nil: a slot
}

// Drain refuses whoever comes from now on and closes everyone: at once, or,
// if spread is positive, slot by slot in random order and evenly over that
// time. The code is 1001; it is 1012 with a spread, and in a cluster, whose
// other nodes go on and have the server-ids at once. Drain does not wait;
// done is called once, from any goroutine, when the last socket is closed. So
// is that of a second Drain; without a spread that one closes at once whoever
// is left.
func (r *Relay) Drain(spread time.Duration, done func()) {
	code := wire.CloseGoingAway
	if spread > 0 || r.cluster.Cluster != nil {
		code = wire.CloseRestart
	}
	r.shutdown.with.Store(uint32(code)) // before anybody is refused
	r.table.drain()
	d := &drain{relay: r, spread: spread, began: r.rt.Clock.Now()}
	ids, proxied := r.registry.Drain()
	for _, p := range proxied {
		d.queue = append(d.queue, shutdownEntry{proxied: p})
	}
	for _, id := range ids {
		d.queue = append(d.queue, shutdownEntry{slot: id})
	}
	if spread > 0 {
		d.shuffle(r.rt.Rand)
	}
	d.round()
	r.table.whenEmpty(func() {
		r.log.flush()
		done()
	})
}

// shuffle makes an order that nobody can foresee: those who came together,
// as after the last restart, must not come back together.
func (d *drain) shuffle(from io.Reader) {
	var seed [16]byte
	if _, err := io.ReadFull(from, seed[:]); err != nil {
		panic(err) // crypto/rand does not fail (Go 1.24 on)
	}
	r := rand.New(rand.NewPCG(endian.BigEndian.Uint64(seed[:8]), endian.BigEndian.Uint64(seed[8:])))
	r.Shuffle(len(d.queue), func(i, j int) { d.queue[i], d.queue[j] = d.queue[j], d.queue[i] })
}

// round closes those whose turn has come and arranges for the next.
func (d *drain) round() {
	past := d.relay.rt.Clock.Now().Sub(d.began)
	for d.done < len(d.queue) && d.due(d.done) <= past {
		d.relay.part(d.queue[d.done])
		d.done++
	}
	if d.done < len(d.queue) {
		d.relay.rt.Clock.AfterFunc(max(d.due(d.done)-past, drainGrain), d.round)
	}
}

// due is when the one at place i is closed: the first at once, the last a
// step before the spread is over.
func (d *drain) due(i int) time.Duration {
	return time.Duration(float64(d.spread) * float64(i) / float64(len(d.queue)))
}

// part closes whoever l is, unless they have gone by themselves.
func (r *Relay) part(l shutdownEntry) {
	code := r.shutdown.code()
	if l.proxied != nil {
		if r.registry.UncountProxied(l.proxied) {
			l.proxied.evict(code, wire.ReasonShuttingDown)
		}
		return
	}
	b, phones, ok := r.registry.Revoke(l.slot, nil)
	if !ok {
		return
	}
	for _, p := range phones {
		p.evict(code, wire.ReasonShuttingDown)
	}
	if b != nil {
		b.fail(code, wire.ReasonShuttingDown)
	}
	r.cluster.changed(l.slot) // after the close: who redials at once asks again
}
