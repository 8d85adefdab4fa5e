package relay

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// maxRivals is the number of claimants that may wait for one incumbent's answer. If all
// of them wait and another one comes from a network that has fewer than another
// network, the oldest claimant of the network that has the most gives way. The first
// claimant of the incumbent's own network, which is most likely its restarted daemon, gets
// a place even if 16 networks have one each.
const maxRivals = 16

// errTooManyClaimants is the error for the next claimant, if it is refused before the upgrade.
var errTooManyClaimants = errors.New("too many claims of one server-id: wait until its holder has answered")

// probe asks whether the binary that holds a slot is alive, and has the rivals that wait
// for the answer. A binary that was killed seems alive until it misses a heartbeat. The
// restarted daemon must not be refused for that long. A live binary must not be
// displaced.
type probe struct {
	waiting *atomic.Int64 // rivals of all probes
	network netip.Prefix  // of the incumbent

	mu     sync.Locker // guards all below
	rivals []asking    // in order of arrival, and so of their pings
	round  *round      // identity of the current round; nil: none
	over   bool        // the incumbent has ended: no rival may wait for it
}

// asking is a rival with the ping that was sent for it. Only the answer to that ping, or
// to a later one, shows that the incumbent was alive when the rival came. The incumbent
// may have answered an earlier rival's ping and died since, and this rival may be the
// same daemon after its restart.
type asking struct {
	rival
	ping  uint64
	since int64 // when the rival came, by Relay.now
}

// rival is a claimant that waits for the answer of the binary that holds its slot. The
// probe calls abandoned until it returns true, or one of the other methods once, and
// then forgets the rival.
type rival interface {
	origin() netip.Prefix // where it comes from; the zero value for claimants at other nodes

	abandoned() bool    // it has left
	overflow()          // too many wait
	unanswered()        // b is not silent, and has not answered within patience
	refused(b *binary)  // b is alive
	inherits(b *binary) // b is dead: take its slot, if it still has it
	vacant()            // the incumbent is gone: claim again
}

// round identifies the time in which b must answer. It is created before its timer is
// set, and the timer's function acts only while the round is the current one.
type round struct {
	ping  uint64 // of the first rival that waits; guarded by the probe's lock
	began int64  // by Relay.now
}

// challenge sends a ping to b and makes r, which came at since, wait for the answer, for
// patience at most. It returns false if b has ended: then the caller must claim again.
func (b *binary) challenge(r rival, since int64) bool {
	q := &b.probe
	q.mu.Lock()
	if q.over {
		q.mu.Unlock()
		return false
	}
	out, ok := q.makeRoom(r.origin())
	if !ok {
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
	if out != nil && !out.abandoned() {
		out.overflow()
	}
	return true
}

// tooManyClaimants reports whether no further claimant from that network may wait for b's answer.
func (b *binary) tooManyClaimants(from netip.Prefix) bool {
	q := &b.probe
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.placeFor(from)
	return !ok
}

// makeRoom makes room for one more rival from that network, if that is possible. It
// removes and returns the rival that gives way for it, or nil. q.mu is held.
func (q *probe) makeRoom(from netip.Prefix) (out rival, ok bool) {
	i, ok := q.placeFor(from)
	if !ok || i < 0 {
		return nil, ok
	}
	out = q.rivals[i].rival
	q.rivals = slices.Delete(q.rivals, i, i+1)
	q.waiting.Add(-1)
	q.round.ping = q.rivals[0].ping
	return out, true
}

// placeFor forgets the rivals that have left. It reports whether one more rival from
// that network may wait, and returns the index of the rival that must give way for it,
// or -1. q.mu is held.
func (q *probe) placeFor(from netip.Prefix) (out int, ok bool) {
	before := len(q.rivals)
	q.rivals = slices.DeleteFunc(q.rivals, asking.abandoned)
	q.waiting.Add(int64(len(q.rivals) - before))
	if len(q.rivals) < maxRivals {
		return -1, true
	}
	have := make(map[netip.Prefix]int)
	for _, r := range q.rivals {
		have[r.origin()]++
	}
	out, least := -1, have[from]+1 // a network with no more keeps its places
	if from == q.network && have[from] == 0 {
		least = 0
	}
	for i, r := range q.rivals {
		if have[r.origin()] > least && (out < 0 || have[r.origin()] > have[q.rivals[out].origin()]) {
			out = i
		}
	}
	return out, out >= 0
}

// pong handles the answer to ping n. It refuses the rivals with that ping or an earlier
// one. For later rivals the round goes on.
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

// patience returns the longest time for which a rival waits for b, for all its challenges
// together. It is the write timeout, after which a b that reads nothing is cut, plus the
// probe's time, after which a b that sends nothing is dead. While b is in the middle of a
// message, its pong may have to wait for the rest, so the message timeout counts if it is
// longer. A b that answers everything but the probe, or that is always slow, therefore
// cannot keep a rival waiting.
func (b *binary) patience() int64 {
	if b.messageSince.Load() != 0 {
		return int64(max(b.set.MessageTimeout, b.set.WriteTimeout) + b.set.Probe)
	}
	return int64(b.set.WriteTimeout + b.set.Probe)
}

// judgeAt sets a timer for judge, at the time at or earlier if a rival's time ends. The
// probe's lock is held.
func (b *binary) judgeAt(g *round, at int64) {
	patience := b.patience()
	for _, r := range b.probe.rivals {
		at = min(at, r.since+patience)
	}
	b.relay.rt.Clock.AfterFunc(time.Duration(at-b.relay.now()), func() { b.judge(g) })
}

// judge is the function of the timer of judgeAt. b counts as dead if it has been silent
// for the probe's time. It has not been silent if bytes came from it, for example a part
// of a long message that delays its pong. While a write waits, b does not read, and the
// write timeout decides whether it is slow or dead. Rivals wait during that time, for
// patience at most, so that a slow binary keeps its phones.
func (b *binary) judge(g *round) {
	q := &b.probe
	q.mu.Lock()
	if q.round != g {
		q.mu.Unlock()
		return
	}
	now := b.relay.now()
	since := max(b.heard.Load(), g.began)
	if left, ok := b.out.pinged(g.ping); ok && b.out.blockedSince.Load() == 0 {
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

	// The newest comes first: if they are attempts of one daemon, only its last
	// attempt can be alive. The others find the slot taken.
	for i := len(rivals) - 1; i >= 0; i-- {
		rival := rivals[i]
		if rival.abandoned() {
			continue // it could not use the slot
		}
		rival.inherits(b)
	}
}

// expire removes and returns the rivals that came at before or earlier. q.mu is held.
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

// origin returns the network of claimant b, of which an owner may have all.
func (b *binary) origin() netip.Prefix { return home(b.from) }

// overflow closes claimant b, because maxRivals wait already, or because a claimant of
// another network has its place.
func (b *binary) overflow() {
	// Not 4409: the incumbent has not been found alive.
	b.refuse(wire.CloseTryAgain, "too many claims at once")
	b.recordAttempt(outcomeCapacity)
}

// unanswered closes claimant b, because its incumbent has been found neither dead nor
// alive. The code lets b redial; a 4409 can stop a daemon permanently.
func (b *binary) unanswered() {
	b.refuse(wire.CloseTryAgain, "the holder of the server-id does not answer")
	b.recordAttempt(outcomeInUse)
	b.relay.log.serverConflict(b)
}

// refused closes claimant b, because its incumbent is alive.
func (b *binary) refused(incumbent *binary) {
	b.relay.apply(b, Claim[*binary, joiner]{Outcome: Held, Incumbent: incumbent}, nil)
}

// inherits gives claimant b the slot of its incumbent, which is silent.
func (b *binary) inherits(incumbent *binary) {
	if !b.relay.mayClaim(b) {
		b.refuseAccess()
		return
	}
	b.relay.apply(b, b.relay.registry.Takeover(b.server, incumbent, b, b.terms), incumbent)
}

// vacant makes claimant b claim again, because its incumbent has ended.
func (b *binary) vacant() { b.relay.claim(b) }

// abandoned reports whether claimant b has left while it waited. If so, it records the
// attempt as refused because of a conflict, and must not be called again.
func (b *binary) abandoned() bool {
	if !b.ended.Load() {
		return false
	}
	b.recordAttempt(outcomeInUse)
	return true
}

// finish ends the probe of an incumbent that has ended, and returns the waiting rivals.
func (q *probe) finish() []asking {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	return q.take()
}

// answered removes and returns the rivals with ping n or an earlier one. q.mu is held.
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

// take ends the round and returns its rivals. q.mu is held.
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
