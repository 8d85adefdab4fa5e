package relay

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// maxRivals is how many claimants may wait for one incumbent's answer.
const maxRivals = 16

// errCrowded is what the next one is told, over HTTP if it can be.
var errCrowded = errors.New("too many claims at once: as many as may wait until its holder has answered")

// probe is the question whether a binary that holds a slot is alive, and
// who waits for the answer. A binary that was killed without a word looks
// alive for a heartbeat or two; the same daemon, restarted, must not be
// locked out that long by its own corpse. Nor may a live one be displaced.
type probe struct {
	waiting *atomic.Int64 // rivals of all probes

	mu     sync.Locker // guards all below
	rivals []asking    // in order of arrival, so of their pings
	round  *round      // identity of the round running now; nil: none
	over   bool        // the incumbent is gone: nobody may wait for it
}

// asking is a rival and the ping that was sent for it. Only that one's answer,
// or a later one's, shows that the incumbent was alive when the rival came: it
// may have answered the ping of an earlier rival and died, and the rival be
// its own next life.
type asking struct {
	rival
	ping  uint64
	since int64 // when the rival came, by Relay.now
}

// rival is who wants the slot of a binary that holds it, and waits for its
// answer. abandoned is asked until it is true; then, or after one call of any
// other method, the rival is forgotten.
type rival interface {
	abandoned() bool    // it has left
	overflow()          // too many wait
	unanswered()        // b is neither silent nor does it answer, for as long as a rival waits
	refused(b *binary)  // b is alive
	inherits(b *binary) // b is dead: take its slot, if it still has it
	vacant()            // the incumbent is gone: claim again
}

// round is the time that b has to answer, and its timer. Made before the timer
// is armed: its body acts only while it is the current one.
type round struct {
	ping  uint64 // of the first rival that waits; guarded by the probe's lock
	began int64  // by Relay.now
}

// challenge asks b and lets r, which came at since, wait for its answer. False
// means that b has ended: claim again. How long r waits is bounded, see patience.
func (b *binary) challenge(r rival, since int64) bool {
	q := &b.probe
	q.mu.Lock()
	if q.over {
		q.mu.Unlock()
		return false
	}
	if q.crowded() {
		q.mu.Unlock()
		r.overflow()
		return true
	}
	ping, first := b.out.putPing()
	q.rivals = append(q.rivals, asking{r, ping, since})
	q.waiting.Add(1)
	if q.round == nil {
		g := &round{ping: ping, began: b.relay.now()}
		q.round = g
		b.judgeAt(g, g.began+int64(b.set.Probe))
	}
	q.mu.Unlock()
	if first {
		b.out.flush()
	}
	return true
}

// crowded reports whether no further claimant may wait for b's answer.
func (b *binary) crowded() bool {
	b.probe.mu.Lock()
	defer b.probe.mu.Unlock()
	return b.probe.crowded()
}

// crowded forgets the rivals that have left and reports whether there are
// as many as there may be. The lock is held.
func (q *probe) crowded() bool {
	before := len(q.rivals)
	q.rivals = slices.DeleteFunc(q.rivals, asking.abandoned)
	q.waiting.Add(int64(len(q.rivals) - before))
	return len(q.rivals) >= maxRivals
}

// pong hears that b was alive when it was asked for ping n: the rivals that
// had come by then are refused. For those that came later the round goes on.
func (b *binary) pong(n uint64) {
	b.phones.forgetDeparted(b.relay.now()) // one ping per heartbeat is often enough
	q := &b.probe
	q.mu.Lock()
	rivals := q.answered(n)
	q.mu.Unlock()
	for _, rival := range rivals {
		if rival.abandoned() {
			continue
		}
		rival.refused(b)
	}
}

// patience returns how long a rival waits for b at most, all its challenges together:
// for a write's timeout, after which a b that takes no bytes is cut, and a probe's
// time, after which a b that sends none is dead. While b is in the middle of a message
// its pong may have to wait for the rest: then it is a message's time and a probe's. So
// a b that answers everything but the probe, or that reads or writes slowly for ever,
// keeps no rival waiting.
func (b *binary) patience() int64 {
	if b.messageSince.Load() != 0 {
		return int64(max(b.set.MessageTimeout, b.set.WriteTimeout) + b.set.Probe)
	}
	return int64(b.set.WriteTimeout + b.set.Probe)
}

// judgeAt has b judged at at, or sooner if a rival's time ends. The probe's lock is
// held.
func (b *binary) judgeAt(g *round, at int64) {
	patience := b.patience()
	for _, r := range b.probe.rivals {
		at = min(at, r.since+patience)
	}
	b.relay.rt.Clock.AfterFunc(time.Duration(at-b.relay.now()), func() { b.judge(g) })
}

// judge is the end of a round's time. b counts as dead if it has been
// silent for all of it. It has not been if something came from it, say
// half of a long message that keeps its pong waiting; and as long as a write
// waits, the ping's or one behind it, b has stopped reading, and the write
// timeout decides whether it is slow or dead. Rivals wait so long, and no
// longer than patience says: they are not refused, and a binary that is only
// slow keeps its phones.
func (b *binary) judge(g *round) {
	q := &b.probe
	q.mu.Lock()
	if q.round != g {
		q.mu.Unlock()
		return
	}
	now := b.relay.now()
	since := max(b.heard.Load(), g.began)
	if left, ok := b.out.pinged(g.ping); ok && b.writeSince.Load() == 0 {
		since = max(since, b.relay.at(left))
	} else {
		since = now
	}
	if since+int64(b.set.Probe) > now {
		late := q.expire(now - b.patience())
		if q.round == g {
			b.judgeAt(g, since+int64(b.set.Probe))
		}
		q.mu.Unlock()
		for _, rival := range late {
			if !rival.abandoned() {
				rival.unanswered()
			}
		}
		return
	}
	rivals := q.take()
	q.mu.Unlock()

	// The newest first: if they are one daemon's attempts, only its last
	// can be alive. Whoever is not the first finds the slot taken.
	for i := len(rivals) - 1; i >= 0; i-- {
		rival := rivals[i]
		if rival.abandoned() {
			continue // a slot given to it would be nobody's
		}
		rival.inherits(b)
	}
}

// expire takes out the rivals that came at before or sooner. The lock is held.
func (q *probe) expire(before int64) (late []asking) {
	still := q.rivals[:0]
	for _, r := range q.rivals {
		if r.since <= before {
			late = append(late, r)
		} else {
			still = append(still, r)
		}
	}
	clear(q.rivals[len(still):])
	q.rivals = still
	q.waiting.Add(-int64(len(late)))
	if len(still) == 0 {
		q.take()
	} else {
		q.round.ping = still[0].ping
	}
	return late
}

// overflow closes claimant b: so many wait already that it may not.
func (b *binary) overflow() {
	// Not 4409: nobody has found the incumbent alive.
	b.refuse(wire.CloseTryAgain, "too many claims at once")
	b.recordAttempt(outcomeCapacity)
}

// unanswered closes claimant b: its incumbent has not been found dead, nor alive. It
// may redial, which a 4409 could keep it from.
func (b *binary) unanswered() {
	b.refuse(wire.CloseTryAgain, "the holder of the server-id does not answer")
	b.recordAttempt(outcomeInUse)
	b.relay.log.serverConflict(b)
}

// refused is the end of claimant b: its incumbent is alive.
func (b *binary) refused(incumbent *binary) {
	b.relay.apply(b, Claim[*binary, joiner]{Outcome: Held, Incumbent: incumbent}, nil)
}

// inherits gives claimant b the slot of its incumbent, which is silent.
func (b *binary) inherits(incumbent *binary) {
	b.relay.apply(b, b.relay.registry.Takeover(b.server, incumbent, b), incumbent)
}

// vacant lets claimant b try again: its incumbent is gone.
func (b *binary) vacant() { b.relay.claim(b) }

// abandoned reports whether claimant b has left while it waited. Its attempt
// counts as refused because of a conflict; asked once that is true, it is
// forgotten.
func (b *binary) abandoned() bool {
	if !b.ended.Load() {
		return false
	}
	b.recordAttempt(outcomeInUse)
	return true
}

// finish ends all waiting for an incumbent that is gone and returns who did.
func (q *probe) finish() []asking {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	return q.take()
}

// answered takes out those whose ping is n or an earlier one. The lock is held.
func (q *probe) answered(n uint64) (rivals []asking) {
	k := 0
	for k < len(q.rivals) && q.rivals[k].ping <= n {
		k++
	}
	if k == len(q.rivals) {
		return q.take()
	}
	rivals = slices.Clone(q.rivals[:k])
	q.rivals = slices.Delete(q.rivals, 0, k)
	q.round.ping = q.rivals[0].ping
	q.waiting.Add(-int64(k))
	return rivals
}

// take ends the round and returns who waited for it. The lock is held.
func (q *probe) take() []asking {
	rivals := q.rivals
	q.round, q.rivals = nil, nil
	q.waiting.Add(-int64(len(rivals)))
	return rivals
}

func (q *probe) rivalsNow() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.rivals)
}
