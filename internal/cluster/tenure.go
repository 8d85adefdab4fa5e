package cluster

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const (
	// protocol is the version of everything that nodes say to each other.
	protocol = 1

	// maxClaimants is how many may wait for the directory with one id. A
	// daemon has one connection; more are refused, and ask again.
	maxClaimants = 4

	// claimTries is how often a claim asks the directory before it gives up,
	// and claimPause what lies between.
	claimTries = 8
	claimPause = 300 * time.Millisecond

	// lagPause is how long a phone that finds nobody waits before it looks
	// once more.
	lagPause = 100 * time.Millisecond
)

// states of an entry in the directory.
const (
	stateLive  = "live"
	stateGrace = "grace"
)

// value is what an entry says.
type value struct {
	V     int    `json:"v"`
	Node  string `json:"node"`
	Nonce string `json:"nonce"`
	State string `json:"state"`
}

func (v value) bytes() []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it holds nothing that could fail
	}
	return b
}

func parseValue(b []byte) (v value, ok bool) {
	return v, json.Unmarshal(b, &v) == nil && v.V == protocol
}

// keyOf is where the directory keeps id. A server-id may be secret and may
// hold any byte, so it never goes there itself.
func keyOf(id wire.ServerID) string {
	sum := sha256.Sum256([]byte(id))
	return "c." + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}

// tenure is this node's hold of one server-id, or the attempt to get it.
type tenure struct {
	id    wire.ServerID
	key   string
	nonce string
	fence *relay.Fence

	dir sync.Locker // held through what is written to the key

	// Guarded by the node's lock.
	waiting  int    // claims that wait for dir, or hold it
	attempts int    // claims that succeeded and are not settled; they grow under dir only
	state    string // what the directory says; empty: it is not ours yet
	revision uint64
	deadline time.Time // where the fence is
	renewal  *clock.Timer
	end      *clock.Timer // rings at the fence
	lost     lostReason   // this node may not serve the id; empty: it may
	over     bool         // not in the node's map any more
}

// errOver says that a tenure ended while its claimant waited.
var errOver = errors.New("the tenure is over")

// Claim implements relay.Cluster.
func (n *Node) Claim(id wire.ServerID) (*relay.Fence, error) {
	for {
		t := n.enter(id)
		if t == nil {
			return nil, relay.ErrUnknownHolder
		}
		t.dir.Lock()
		err := n.acquire(t)
		n.mu.Lock()
		t.waiting--
		n.dropIfDone(t)
		n.mu.Unlock()
		t.dir.Unlock()
		switch {
		case err == nil:
			return t.fence, nil
		case !errors.Is(err, errOver):
			return nil, err
		}
	}
}

// enter finds or makes the tenure of id and counts the caller as waiting for
// it. It returns nil if the caller must try later.
func (n *Node) enter(id wire.ServerID) *tenure {
	key := keyOf(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.tenures[key]
	switch {
	case n.draining:
		return nil
	case t == nil:
		t = &tenure{id: id, key: key, nonce: n.nonce(), fence: n.host.NewFence(), dir: n.rt.NewLock("tenure")}
		n.tenures[key] = t
	case t.lost != "" || t.waiting >= maxClaimants:
		return nil
	}
	t.waiting++
	return t
}

// dropIfDone takes t out if nothing is left of it. The lock is held.
func (n *Node) dropIfDone(t *tenure) {
	if t.over || t.waiting > 0 || t.attempts > 0 || t.state != "" && t.lost == "" {
		return
	}
	n.remove(t)
}

// remove takes t out. The lock is held.
func (n *Node) remove(t *tenure) {
	t.over = true
	delete(n.tenures, t.key)
	if t.renewal != nil {
		t.renewal.Stop()
	}
	if t.end != nil {
		t.end.Stop()
	}
}

// acquire makes the id of t this node's, for one more attempt. dir is held.
func (n *Node) acquire(t *tenure) error {
	n.mu.Lock()
	state, lost, over := t.state, t.lost, t.over
	if state == stateLive && lost == "" && !over {
		t.attempts++
		n.mu.Unlock()
		return nil
	}
	n.mu.Unlock()
	switch {
	case over:
		return errOver
	case lost != "":
		return relay.ErrUnknownHolder
	case state == stateGrace:
		if !n.write(t, stateLive) {
			return relay.ErrUnknownHolder
		}
		return n.begin(t)
	}
	if err := n.win(t); err != nil {
		n.metrics.refusals.Inc()
		return err
	}
	return n.begin(t)
}

// begin counts an attempt, if t is still held.
func (n *Node) begin(t *tenure) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.lost != "" || t.state != stateLive {
		return relay.ErrUnknownHolder
	}
	t.attempts++
	return nil
}

// win gets the key for t, which has not had it yet. dir is held.
func (n *Node) win(t *tenure) error {
	mine := value{V: protocol, Node: n.id.String(), Nonce: t.nonce, State: stateLive}.bytes()
	first := n.rt.Clock.Now() // since when the directory may say that it is ours
	for range claimTries {
		sent := n.rt.Clock.Now()
		rev, err := n.cfg.Store.Create(t.key, mine, n.cfg.TTL)
		switch {
		case err == nil:
			n.won(t, rev, sent)
			return nil
		case !errors.Is(err, ErrConflict):
			return relay.ErrUnknownHolder
		}
		e, err := n.cfg.Store.Get(t.key)
		if errors.Is(err, ErrNotFound) {
			n.pause(claimPause) // expired just now; the directory may go on saying that it is there
			continue
		}
		if err != nil {
			return relay.ErrUnknownHolder
		}
		v, ok := parseValue(e.Value)
		switch {
		case !ok: // of another version: it is not known how to ask its node
			return relay.ErrUnknownHolder
		case v.Nonce == t.nonce: // an earlier Create got through
			n.won(t, e.Revision, first)
			return nil
		case v.State == stateGrace, v.Node == n.id.String():
			// A grace is for whoever comes first. And what bears this node's
			// name is a claim that it has given up without a word.
		default:
			switch n.ask(v, t.id) {
			case answerAlive:
				return relay.ErrServerInUse
			case answerGone: // its node says that nobody serves under it
			case answerLetGo, answerBusy:
				n.pause(claimPause)
				continue
			default:
				return relay.ErrUnknownHolder // never a steal before expiry
			}
		}
		sent = n.rt.Clock.Now()
		rev, err = n.cfg.Store.Update(t.key, mine, e.Revision, n.cfg.TTL)
		switch {
		case err == nil:
			n.won(t, rev, sent)
			return nil
		case !errors.Is(err, ErrConflict):
			return relay.ErrUnknownHolder
		}
	}
	return relay.ErrUnknownHolder
}

// won notes that the directory says that t is this node's, since it was told
// at sent.
func (n *Node) won(t *tenure, revision uint64, sent time.Time) {
	n.renewed(t, stateLive, revision, sent)
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	t.renewal = n.rt.Clock.AfterFunc(n.period(), func() { n.renew(t) })
	t.end = n.rt.Clock.AfterFunc(t.deadline.Sub(now), func() { n.atFence(t) })
}

// renewed notes what the directory says of t, and moves the fence if it was
// told so at sent.
func (n *Node) renewed(t *tenure, state string, revision uint64, sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t.state, t.revision = state, max(t.revision, revision)
	if t.lost == "" && !sent.IsZero() {
		t.deadline = sent.Add(n.cfg.TTL - n.cfg.Margin)
		t.fence.Move(t.deadline)
	}
}

// period is the time to the next renewal: spread, so that those of many ids
// that were claimed together do not stay together.
func (n *Node) period() time.Duration {
	fifth := n.cfg.Renew / 5
	return n.cfg.Renew - fifth + n.jitter(2*fifth)
}

// renew is the body of a tenure's renewal timer.
func (n *Node) renew(t *tenure) {
	n.sync(t, true)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !t.over && t.lost == "" {
		t.renewal = n.rt.Clock.AfterFunc(n.period(), func() { n.renew(t) })
	}
}

// atFence is the body of the timer at the fence: it ends t unless the fence
// has moved.
func (n *Node) atFence(t *tenure) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	if t.over || t.lost != "" {
		n.mu.Unlock()
		return
	}
	if left := t.deadline.Sub(now); left > 0 {
		t.end = n.rt.Clock.AfterFunc(left, func() { n.atFence(t) })
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	n.lose(t, lostFence)
}

// Settled implements relay.Cluster.
func (n *Node) Settled(id wire.ServerID) {
	n.mu.Lock()
	t := n.tenures[keyOf(id)]
	if t == nil {
		n.mu.Unlock()
		return
	}
	t.attempts--
	last := t.attempts == 0
	n.mu.Unlock()
	if last {
		n.changed(t)
	}
}

// Changed implements relay.Cluster.
func (n *Node) Changed(id wire.ServerID) {
	n.mu.Lock()
	t := n.tenures[keyOf(id)]
	n.mu.Unlock()
	if t != nil {
		n.changed(t)
	}
}

// changed has the directory follow the slot of t, if it does not already.
func (n *Node) changed(t *tenure) {
	if n.host.Slot(t.id) == relay.SlotHeld {
		n.mu.Lock()
		fine := t.state == stateLive && t.lost == ""
		n.mu.Unlock()
		if fine {
			return // the usual case, and no reason for a task
		}
	}
	n.rt.Go("directory", func() { n.sync(t, false) })
}

// sync makes the directory say of t what its slot is: live, in grace, or
// nothing. If they agree it is written again only in order to renew. Should
// that fail the next renewal tries again.
func (n *Node) sync(t *tenure, renew bool) {
	t.dir.Lock()
	defer t.dir.Unlock()
	n.mu.Lock()
	over, lost, state, attempts := t.over, t.lost, t.state, t.attempts
	n.mu.Unlock()
	slot := n.host.Slot(t.id) // after attempts: who has settled is seated
	switch {
	case over || state == "":
		return
	case lost != "":
		if slot != relay.SlotFree {
			n.host.Revoke(t.id, lost == lostReclaimed) // seated after it was lost
		}
		n.mu.Lock()
		n.dropIfDone(t)
		n.mu.Unlock()
		return
	}
	want := stateLive
	if attempts == 0 {
		switch slot {
		case relay.SlotFree:
			n.purge(t)
			return
		case relay.SlotInGrace:
			want = stateGrace
		}
	}
	if renew || want != state {
		n.write(t, want)
	}
}

// write renews t as being in state. It reports whether the directory says so
// now. dir is held.
func (n *Node) write(t *tenure, state string) bool {
	v := value{V: protocol, Node: n.id.String(), Nonce: t.nonce, State: state}.bytes()
	for range 2 {
		n.mu.Lock()
		revision := t.revision
		n.mu.Unlock()
		sent := n.rt.Clock.Now()
		rev, err := n.cfg.Store.Update(t.key, v, revision, n.cfg.TTL)
		if err == nil {
			n.renewed(t, state, rev, sent)
			return true
		}
		if !errors.Is(err, ErrConflict) {
			return false // unknown; the fence stays where it is
		}
		e, err := n.cfg.Store.Get(t.key)
		switch {
		case errors.Is(err, ErrNotFound):
			// The directory has lost it, or a server's clock has leapt. What
			// is served is there, so the entry is made again; if somebody was
			// faster, it is theirs.
			sent = n.rt.Clock.Now()
			rev, err = n.cfg.Store.Create(t.key, v, n.cfg.TTL)
			if err == nil {
				n.metrics.recreated.Inc()
				n.renewed(t, state, rev, sent)
				return true
			}
			if !errors.Is(err, ErrConflict) {
				return false
			}
			continue
		case err != nil:
			return false
		}
		if e.Revision < revision {
			return false // a server that lags behind; it says nothing
		}
		got, ok := parseValue(e.Value)
		if !ok || got.Nonce != t.nonce {
			n.overtaken(t)
			return false
		}
		// An earlier write got through after all. When it was sent is not
		// known, so the fence stays.
		n.renewed(t, got.State, e.Revision, time.Time{})
	}
	return false
}

// purge takes the key of t, which has no slot, out of the directory. dir is
// held.
func (n *Node) purge(t *tenure) {
	n.mu.Lock()
	revision := t.revision
	n.mu.Unlock()
	err := n.cfg.Store.Purge(t.key, revision)
	n.away.Store(err != nil && !errors.Is(err, ErrConflict))
	if errors.Is(err, ErrConflict) {
		if e, err := n.cfg.Store.Get(t.key); err == nil {
			if v, ok := parseValue(e.Value); ok && v.Nonce == t.nonce {
				_ = n.cfg.Store.Purge(t.key, e.Revision) // or it expires
			}
		}
	}
	t.fence.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	t.state = ""
	n.remove(t) // whoever waits finds it over, and begins with a new nonce
}

// overtaken is the end of t because another node has its key.
func (n *Node) overtaken(t *tenure) {
	n.mu.Lock()
	why := lostTaken
	if t.state == stateGrace {
		why = lostReclaimed
	}
	n.mu.Unlock()
	n.lose(t, why)
}

// lose ends t: this node may not serve its id any longer. The fence is closed
// first; a claim that is seated after the slot was revoked finds it so.
func (n *Node) lose(t *tenure, why lostReason) {
	n.mu.Lock()
	if t.over || t.lost != "" {
		n.mu.Unlock()
		return
	}
	if t.state == "" {
		n.mu.Unlock()
		return
	}
	t.lost = why
	n.mu.Unlock()
	t.fence.Close()
	n.metrics.lost[why].Inc()
	n.host.Revoke(t.id, why == lostReclaimed)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropIfDone(t)
}

// cached is what the directory said of a key that another node has.
type cached struct {
	value
	revision uint64
	at       time.Time // when it said so
}

// onEntry hears of a change in the directory.
func (n *Node) onEntry(e Entry) {
	now := n.rt.Clock.Now()
	v, ok := parseValue(e.Value)
	n.mu.Lock()
	switch c, known := n.cache[e.Key]; {
	case known && c.revision > e.Revision:
	case e.Value == nil || !ok || v.Node == n.id.String():
		delete(n.cache, e.Key)
	default:
		n.cache[e.Key] = cached{v, e.Revision, now}
	}
	t := n.tenures[e.Key]
	news := t != nil && t.state != "" && t.lost == "" && e.Revision > t.revision
	n.mu.Unlock()
	switch {
	case !news:
	case e.Value == nil:
		n.rt.Go("directory", func() { n.sync(t, true) }) // perhaps our own purge; else make it again
	case v.Nonce != t.nonce:
		n.overtaken(t)
	}
}

// Find implements relay.Cluster.
func (n *Node) Find(id wire.ServerID) (relay.Elsewhere, error) {
	now := n.rt.Clock.Now()
	key := keyOf(id)
	n.mu.Lock()
	c, ok := n.cache[key]
	n.mu.Unlock()
	if ok && now.Sub(c.at) <= n.cfg.TTL {
		return n.elsewhere(id, c.value)
	}
	e, err := n.findAgain(id)
	if e == nil && err == nil && !n.holds(key) {
		n.pause(lagPause) // the server that was asked may not have heard of it yet
		return n.findAgain(id)
	}
	return e, err
}

// holds reports whether this node has a tenure under key, or claims it now.
func (n *Node) holds(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.tenures[key] != nil
}

// findAgain asks the directory itself.
func (n *Node) findAgain(id wire.ServerID) (relay.Elsewhere, error) {
	e, err := n.cfg.Store.Get(keyOf(id))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, relay.ErrUnknownHolder
	}
	v, ok := parseValue(e.Value)
	if !ok {
		return nil, relay.ErrUnknownHolder
	}
	return n.elsewhere(id, v)
}

func (n *Node) elsewhere(id wire.ServerID, v value) (relay.Elsewhere, error) {
	owner, ok := parseNodeID(v.Node)
	if !ok {
		return nil, relay.ErrUnknownHolder
	}
	if owner == n.id {
		return nil, nil // it has just begun here, or just ended
	}
	return &elsewhere{node: n, id: id, owner: owner, nonce: v.Nonce}, nil
}
