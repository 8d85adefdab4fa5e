package relay

import (
	endian "encoding/binary"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// drainGrain is the shortest time between two rounds of a drain.
const drainGrain = 10 * time.Millisecond

// shutdownState says whether a drain has begun, and has its close code.
type shutdownState struct{ with atomic.Uint32 }

func (p *shutdownState) begun() bool          { return p.with.Load() != 0 }
func (p *shutdownState) code() wire.CloseCode { return wire.CloseCode(p.with.Load()) }

// drain closes the connections of a relay that ends. It closes a binary together with
// its phones, because no binary can come back for them.
type drain struct {
	relay  *Relay
	spread time.Duration
	began  time.Time
	queue  []shutdownEntry // in the order in which they are closed
	done   int             // of them
}

// shutdownEntry is closed in one step: a slot with its binary and phones, or a proxied
// phone.
type shutdownEntry struct {
	slot    wire.ServerID
	proxied joiner // nil: a slot
}

// Drain refuses new connections and closes the existing ones: in one step, or, if spread
// is positive, slot by slot in random order and evenly over that time. The code is 1001.
// It is 1012 with a spread, and in a cluster, where another node can serve the clients
// immediately.
//
// Drain does not wait. It calls done once, from any goroutine, when the last socket is
// closed. Drain may be called again: each done is called, and a call without a spread
// closes all remaining connections.
func (r *Relay) Drain(spread time.Duration, done func()) {
	code := wire.CloseGoingAway
	if spread > 0 || r.cluster.Cluster != nil {
		code = wire.CloseRestart
	}
	r.shutdown.with.Store(uint32(code)) // before the table refuses connections, which need the code
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

// shuffle makes the order random. Clients that connected together, for example after the
// last restart, must not come back together.
func (d *drain) shuffle(from io.Reader) {
	var seed [16]byte
	if _, err := io.ReadFull(from, seed[:]); err != nil {
		panic(err) // crypto/rand does not fail (Go 1.24 on)
	}
	r := rand.New(rand.NewPCG(endian.BigEndian.Uint64(seed[:8]), endian.BigEndian.Uint64(seed[8:])))
	r.Shuffle(len(d.queue), func(i, j int) { d.queue[i], d.queue[j] = d.queue[j], d.queue[i] })
}

// round closes the entries that are due and sets a timer for the next ones.
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

// due returns the time after the begin at which entry i is closed: the first one
// immediately, the last one shortly before the spread is over.
func (d *drain) due(i int) time.Duration {
	return time.Duration(float64(d.spread) * float64(i) / float64(len(d.queue)))
}

// part closes the connections of l that have not ended yet.
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
	r.cluster.changed(l.slot) // after the close; a peer that redials before this tries again
}
