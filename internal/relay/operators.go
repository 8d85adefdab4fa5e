package relay

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Ending is the close message with which connections are closed.
type Ending struct {
	Code   wire.CloseCode
	Reason string
}

// ByOperator ends connections at the request of an operator. Daemons, phones and
// desktop clients redial after it.
var ByOperator = Ending{wire.CloseGoingAway, "disconnected by the operator"}

// Disconnected counts what a Disconnect has closed.
type Disconnected struct {
	Binaries int // connections of binaries, claimants included
	Phones   int // connections of phones
	Graces   int // slots in grace
}

// Add adds the counts of o to d.
func (d *Disconnected) Add(o Disconnected) {
	d.Binaries += o.Binaries
	d.Phones += o.Phones
	d.Graces += o.Graces
}

// Disconnect closes the connections that s selects, with one ending for binaries and one
// for phones, and returns how many it has closed. A connection that another task closes
// concurrently is not counted.
//
// The slot of a binary ends with it, without a grace: all phones of that slot are closed,
// too. If s selects by server-id only, the slots in grace end as well. If only a phone is
// closed, its binary gets a close notice.
//
// A phone with its slot at another node is closed if s selects by number or address, or if
// proxied is true. If s selects by server-id, the node with the slot closes it.
//
// Disconnect closes only connections that exist when it is called. To refuse others, the
// caller must put its decision into force at the gates first.
func (r *Relay) Disconnect(s Selector, binaries, phones Ending, proxied bool) (n Disconnected) {
	all := r.selected(s, 0, 0)
	for _, t := range all {
		if b := binaryOf(t.joined); b != nil {
			n.Add(r.disconnectBinary(b, binaries, phones))
		}
	}
	if s.bySlot() {
		n.Add(r.disconnectGraces(s, binaries, phones))
	}
	for _, t := range all {
		switch c := t.joined.(type) {
		case *proxiedPhone:
			if (proxied || !s.bySlot()) && c.evict(phones.Code, phones.Reason) {
				n.Phones++
			}
		case *conn:
			if p := phoneOf(c); p != nil && p.fail(phones.Code, phones.Reason) {
				n.Phones++
			}
		}
	}
	r.metrics.operatorCloses.Add(float64(n.Binaries + n.Phones))
	return n
}

// disconnectBinary closes b, and if b holds its slot, the phones of the slot.
func (r *Relay) disconnectBinary(b *binary, binaries, phones Ending) (n Disconnected) {
	_, joined, held := r.registry.Revoke(b.server, b)
	n.Phones = evictAll(joined, phones)
	if b.end(binaries.Code, binaries.Reason) {
		if held {
			r.log.serverReleased(b, binaries.Code, binaries.Reason)
		}
		if b.close(binaries.Code, binaries.Reason, false) {
			n.Binaries++
		}
	}
	if held {
		r.cluster.changed(b.server)
	}
	return n
}

// disconnectGraces ends the slots in grace that s selects. A binary that reclaims one
// of them concurrently is closed, too.
func (r *Relay) disconnectGraces(s Selector, binaries, phones Ending) (n Disconnected) {
	var ids []wire.ServerID
	if s.Server != "" {
		if _, ok := r.registry.Grace(s.Server); ok && s.matchesSlot(s.Server) {
			ids = append(ids, s.Server)
		}
	} else {
		r.registry.Graces(func(g Grace) {
			if s.matchesSlot(g.Server) {
				ids = append(ids, g.Server)
			}
		})
	}
	for _, id := range ids {
		b, joined, ok := r.registry.Revoke(id, nil)
		if !ok {
			continue
		}
		n.Phones += evictAll(joined, phones)
		if b == nil {
			n.Graces++
		} else if b.fail(binaries.Code, binaries.Reason) {
			n.Binaries++
		}
		r.cluster.changed(id)
	}
	return n
}

// evictAll closes phones that the registry has removed, and returns how many of them
// were not closed before.
func evictAll(phones []joiner, with Ending) (n int) {
	for _, p := range phones {
		if p.evict(with.Code, with.Reason) {
			n++
		}
	}
	return n
}

// MaxBans limits the bans of a relay, and MaxBanTime the time of one.
const (
	MaxBans    = 10_000
	MaxBanTime = 366 * 24 * time.Hour
)

// The widest networks that can be banned, by their prefix length. A wider ban is a mistake,
// or is for a firewall.
const (
	widestBan4 = 8
	widestBan6 = 16
)

// BanKey is what a ban is for: a server-id, of which only the hash is kept, or a
// network.
type BanKey struct {
	server [sha256.Size]byte // not zero: of that server-id
	prefix netip.Prefix
}

// ServerBan returns the key for bans of id.
func ServerBan(id wire.ServerID) BanKey { return BanKey{server: sha256.Sum256([]byte(id))} }

// NetworkBan returns the key for bans of p. An IPv6 network that is narrower than a /64
// stands for its /64, as everywhere in the relay. The error says that p is too wide.
func NetworkBan(p netip.Prefix) (BanKey, error) {
	charged, widest := network.ChargedPrefix(p), widestBan4
	if charged.Addr().Is6() {
		widest = widestBan6
	}
	if !charged.IsValid() || charged.Bits() < widest {
		return BanKey{}, fmt.Errorf("%v is not a network of /%d or narrower", p, widest)
	}
	return BanKey{prefix: charged}, nil
}

// Selector returns the selector of the connections that a ban of k keeps out.
func (k BanKey) Selector() Selector {
	if k.prefix.IsValid() {
		return Selector{Prefix: k.prefix}
	}
	return Selector{Match: func(id wire.ServerID) bool { return ServerBan(id) == k }}
}

// hashPrefix begins the text of a key for a server-id.
const hashPrefix = "sha256:"

// String returns the network, or sha256: and the hash of the server-id.
func (k BanKey) String() string {
	if k.prefix.IsValid() {
		return k.prefix.String()
	}
	return hashPrefix + hex.EncodeToString(k.server[:])
}

// ParseBanKey parses the text of a key.
func ParseBanKey(text string) (BanKey, error) {
	if len(text) == len(hashPrefix)+hex.EncodedLen(sha256.Size) && text[:len(hashPrefix)] == hashPrefix {
		var k BanKey
		_, err := hex.Decode(k.server[:], []byte(text[len(hashPrefix):]))
		return k, err
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return BanKey{}, fmt.Errorf("%q is neither a network nor %s and 64 hex digits", wire.Printable(text, 80), hashPrefix)
	}
	return NetworkBan(p)
}

// Ban keeps a server-id or a network out until a time.
type Ban struct {
	Key    BanKey
	Label  string // the name of the key for operators, such as a fingerprint; may be empty
	Made   time.Time
	Until  time.Time
	Lifted bool   // it is no longer in force; the record stays so that other nodes learn that
	Why    string // for operators; peers never get it
	By     string // the operator
}

// bans has the bans of a relay, and those that were lifted before their end.
type bans struct {
	clock clock.Clock
	some  atomic.Bool // there is a ban; spares the gates the lock

	mu      sync.Locker // guards all below
	all     map[BanKey]Ban
	lengths [2]map[int]int // how many bans of networks have a prefix length; of IPv4 and IPv6
}

// init makes s ready for use.
func (s *bans) init(rt Runtime, reg prometheus.Registerer) {
	s.clock, s.mu, s.all = rt.Clock, rt.NewLock("bans"), make(map[BanKey]Ban)
	s.lengths = [2]map[int]int{{}, {}}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_bans",
		Help: "Bans of server-ids and networks by operators that are in force."}, func() float64 {
		n := 0
		for _, b := range s.list() {
			if !b.Lifted {
				n++
			}
		}
		return float64(n)
	}))
}

// ErrLongBan says that a ban lasts longer than MaxBanTime.
var ErrLongBan = fmt.Errorf("a ban may last %d days at most", MaxBanTime/(24*time.Hour))

// errManyBans says that no further ban can be kept.
var errManyBans = fmt.Errorf("there are %d bans already, the most there may be: ban a network instead of its addresses, or wait until some have expired", MaxBans)

// apply keeps b, unless there is a ban of the same key that was made later. applied
// reports whether b has changed anything.
func (s *bans) apply(b Ban) (applied bool, err error) {
	now := s.clock.Now()
	switch {
	case b.Key == (BanKey{}):
		return false, errors.New("the ban names neither a server-id nor a network")
	case !b.Until.After(now):
		return false, nil
	case b.Until.Sub(b.Made) > MaxBanTime: // whatever the clock of this machine says
		return false, ErrLongBan
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.all[b.Key]
	if known && !old.Made.Before(b.Made) {
		return false, nil
	}
	if !known && len(s.all) >= MaxBans {
		s.dropExpired(now)
		if len(s.all) >= MaxBans {
			return false, errManyBans
		}
	}
	if !known {
		s.count(b.Key, 1)
	}
	s.all[b.Key] = b
	s.some.Store(true)
	return true, nil
}

// dropExpired drops the bans that have expired. The lock is held.
func (s *bans) dropExpired(now time.Time) {
	for k, b := range s.all {
		if !b.Until.After(now) {
			delete(s.all, k)
			s.count(k, -1)
		}
	}
	s.some.Store(len(s.all) > 0)
}

// count adds n to the number of bans with the prefix length of k. The lock is held.
func (s *bans) count(k BanKey, n int) {
	if !k.prefix.IsValid() {
		return
	}
	of := s.lengths[k.prefix.Addr().BitLen()/128]
	if of[k.prefix.Bits()] += n; of[k.prefix.Bits()] == 0 {
		delete(of, k.prefix.Bits())
	}
}

// list returns all bans that have not expired, also those that were lifted, in the order
// in which they were made.
func (s *bans) list() []Ban {
	now := s.clock.Now()
	s.mu.Lock()
	s.dropExpired(now)
	all := slices.Collect(maps.Values(s.all))
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b Ban) int {
		return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(a.Key.String(), b.Key.String()))
	})
	return all
}

// get returns the record for key, unless it has expired.
func (s *bans) get(key BanKey) (b Ban, ok bool) {
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok = s.all[key]
	if !ok || !b.Until.After(now) {
		return Ban{}, false
	}
	return b, true
}

// find returns the end of the ban of from, or else of id, and whether it is of the
// address. It reports false if neither is banned.
func (s *bans) find(from netip.Addr, id wire.ServerID, now time.Time) (until time.Time, address, banned bool) {
	if !s.some.Load() {
		return until, false, false
	}
	key := ServerBan(id)
	from = from.Unmap().WithZone("")
	s.mu.Lock()
	defer s.mu.Unlock()
	for bits := range s.lengths[from.BitLen()/128] {
		p, _ := from.Prefix(bits) // the length is one of the family
		if b := s.all[BanKey{prefix: p}]; b.inForce(now) && b.Until.After(until) {
			until, address, banned = b.Until, true, true
		}
	}
	if b := s.all[key]; !banned && b.inForce(now) {
		until, banned = b.Until, true
	}
	return until, address, banned
}

func (b Ban) inForce(now time.Time) bool { return !b.Lifted && b.Until.After(now) }

// barred returns the rejection of connections from an address for a server-id, if one
// of the two is banned. The gates call it before the upgrade. The endpoints call it
// again once the connection is in the connection table: a ban that came meanwhile may
// not have found it there.
func (r *Relay) barred(from netip.Addr, id wire.ServerID) *rejection {
	until, address, banned := r.bans.find(from, id, r.rt.Clock.Now())
	if !banned {
		return nil
	}
	what := "server-id"
	if address {
		what = "address"
	}
	return &rejection{outcomeBanned, http.StatusForbidden, 0,
		fmt.Errorf("this %s is banned by the operator of the relay until %s", what, until.UTC().Format(time.RFC3339))}
}

// Ban puts b into force, or lifts the ban of its key if b is Lifted, and closes the
// connections that b keeps out from now on. It returns how many it has closed. applied is
// false, and nothing has changed, if b has expired, or if there is a ban of the same key
// that was made at the same time or later. The error is a sentence.
func (r *Relay) Ban(b Ban) (applied bool, n Disconnected, err error) {
	applied, err = r.bans.apply(b)
	if !applied || b.Lifted {
		return applied, n, err
	}
	return true, r.Disconnect(b.Key.Selector(), ByOperator, ByOperator, false), nil
}

// Bans returns the bans that have not expired, also those that were lifted, in the order
// in which they were made.
func (r *Relay) Bans() []Ban { return r.bans.list() }

// BanOf returns the record for key, also if it was lifted. It reports false if there is none,
// or if it has expired.
func (r *Relay) BanOf(key BanKey) (Ban, bool) { return r.bans.get(key) }
