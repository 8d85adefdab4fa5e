package daemon

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/status"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// OperatorHeader is the header that requests must have that change something. A browser
// sends it for a page of another site only after it has asked the relay, which refuses.
const OperatorHeader = "X-Pyrycode-Operator"

// Paths of the requests that change something.
const (
	KickPath  = "/connections/kick"
	BansPath  = "/bans"
	UnbanPath = "/bans/lift"
)

// OperatorRequest is the content of a request to kick, ban or unban.
type OperatorRequest struct {
	What string `json:"what"`          // see parseTarget
	Why  string `json:"why,omitempty"` // for the log and for the list of bans
	For  string `json:"for,omitempty"` // of a ban: its duration
}

// OperatorAnswer is the answer to a request to kick, ban or unban.
type OperatorAnswer struct {
	What     string     `json:"what"` // as the log shows it
	Until    *time.Time `json:"until,omitempty"`
	Was      *time.Time `json:"was_until,omitempty"`  // the end of the ban that this one replaces
	Covered  string     `json:"covered_by,omitempty"` // a wider ban that still keeps it out, after an unban
	Binaries int        `json:"binaries"`             // closed, at all nodes
	Phones   int        `json:"phones"`
	Graces   int        `json:"in_grace"` // slots in grace that ended
	Lifted   bool       `json:"lifted,omitempty"`

	// Saved says that the bans are on the disk, and NotSaved why they are not in spite
	// of --state-dir. Silent has the nodes that have not answered, each with a reason.
	Saved    bool     `json:"saved,omitempty"`
	NotSaved string   `json:"not_saved,omitempty"`
	Silent   []string `json:"silent_nodes,omitempty"`
}

// BanList is the content of /bans.
type BanList struct {
	Bans  []BanEntry `json:"bans"`
	Saved bool       `json:"saved"` // bans survive a restart
}

// BanEntry is a ban in force.
type BanEntry struct {
	What  string    `json:"what"`  // a network, or sha256: and the hash of a server-id
	Label string    `json:"label"` // the server-id as the log of the relay showed it then
	Made  time.Time `json:"made"`
	Until time.Time `json:"until"`
	Why   string    `json:"why"`
	By    string    `json:"by"`
}

// defaultBan is the duration of a ban without one.
const defaultBan = time.Hour

// operations carries out what operators ask for.
type operations struct {
	relay     *relay.Relay
	show      func(wire.ServerID) string
	cluster   *clustered
	store     *banStore
	audit     *audit
	mayChange func() error
	asks      func() bool // the listener asks for a password

	mu     sync.Mutex
	recent []resolved // fingerprints that operators have named, the newest last
}

// resolved is a fingerprint with the key of its server-id.
type resolved struct {
	fingerprint string
	key         relay.BanKey
}

// maxResolved is the number of fingerprints that are remembered.
const maxResolved = 256

// target is what an operator names.
type target struct {
	relay.Selector
	key   relay.BanKey // zero: a connection, which cannot be banned
	text  string       // for other nodes; empty: it means something at this node only
	shown string       // in the form of the log
}

// errUnknownFingerprint says that no server-id has a fingerprint.
var errUnknownFingerprint = errors.New("no connection, no slot in grace and no ban is of a server-id with this fingerprint; if it has gone, give the server-id")

// parseTarget reads what an operator names. It is one of:
//
//   - a connection of the list, conn-17, or the conn-id of a phone;
//   - an IP address or a network;
//   - sha256: and the hash of a server-id, as the list of bans shows it;
//   - the fingerprint of a server-id, as the log shows it, if resolve knows it;
//   - a server-id, with or without id: before it.
func (o *operations) parseTarget(text string) (t target, err error) {
	if text == "" || len(text) > wire.MaxServerID+len("id:") {
		return t, fmt.Errorf("what: must be a connection, an address, a network or a server-id, of at most %d bytes", wire.MaxServerID)
	}
	t.text, t.shown = text, text
	if n, ok := status.ParseConn(text); ok {
		t.Number, t.text = n, ""
		return t, nil
	}
	if _, ok := wire.ConnIDNumber([]byte(text)); ok {
		t.Conn = wire.ConnID(text)
		return t, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		text = netip.PrefixFrom(a.WithZone(""), a.BitLen()).String()
	}
	if _, err := netip.ParsePrefix(text); err == nil || strings.HasPrefix(text, "sha256:") {
		key, err := relay.ParseBanKey(text)
		if err != nil {
			return t, fmt.Errorf("what: %w", err)
		}
		return keyTarget(key, key.String()), nil
	}
	id, explicit := strings.CutPrefix(text, "id:")
	if !explicit && isFingerprint(text) {
		key, ok := o.resolve(text)
		if !ok {
			return t, fmt.Errorf("what: %s: %w", text, errUnknownFingerprint)
		}
		return keyTarget(key, text), nil
	}
	if !explicit && likeAddress(text) {
		return t, fmt.Errorf("what: %q is no address, network or fingerprint; write id:%s if it is a server-id", text, text)
	}
	return keyTarget(relay.ServerBan(wire.ServerID(id)), o.show(wire.ServerID(id))), nil
}

// likeAddress reports whether text is probably a mistyped address, network or fingerprint:
// as a server-id it would name nothing that its author means.
func likeAddress(text string) bool {
	if strings.HasPrefix(text, "fp-") {
		return true
	}
	return strings.Trim(text, "0123456789abcdefABCDEF.:/") == "" && strings.ContainsAny(text, ".:/") && strings.ContainsAny(text, "0123456789")
}

func keyTarget(key relay.BanKey, shown string) target {
	return target{Selector: key.Selector(), key: key, text: key.String(), shown: shown}
}

// label returns the label of a ban of t: a fingerprint, and never a server-id, because
// the file of bans has it.
func (o *operations) label(t target) string {
	if isFingerprint(t.shown) {
		return t.shown
	}
	return ""
}

// resolve returns the key of the server-id that the log shows as fingerprint: of one
// that is connected, that an operator has named before, or that is banned.
func (o *operations) resolve(fingerprint string) (key relay.BanKey, ok bool) {
	if id, ok := o.idOf(fingerprint); ok {
		key := relay.ServerBan(id)
		o.remember(resolved{fingerprint, key})
		return key, true
	}
	o.mu.Lock()
	i := slices.IndexFunc(o.recent, func(r resolved) bool { return r.fingerprint == fingerprint })
	if i >= 0 {
		key, ok = o.recent[i].key, true
	}
	o.mu.Unlock()
	if ok {
		return key, true
	}
	for _, b := range o.relay.Bans() {
		if b.Label == fingerprint {
			return b.Key, true
		}
	}
	return key, false
}

// remember keeps r, so that an operator can ban by its fingerprint what has been kicked
// and has not come back.
func (o *operations) remember(r resolved) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.recent = slices.DeleteFunc(o.recent, func(old resolved) bool { return old.fingerprint == r.fingerprint })
	o.recent = append(o.recent[max(0, len(o.recent)-maxResolved+1):], r)
}

// idOf returns the server-id, of a connection or of a slot in grace, that the log shows
// as text.
func (o *operations) idOf(text string) (id wire.ServerID, ok bool) {
	match := func(id wire.ServerID) bool { return o.show(id) == text }
	if page, _ := o.relay.Connections(relay.Selector{Match: match}, 0, 1); len(page) > 0 {
		return page[0].Server, true
	}
	o.relay.Graces(func(g relay.Grace) {
		if match(g.Server) {
			id, ok = g.Server, true
		}
	})
	return id, ok
}

// maxOperatorRequest is the longest content of a request, in bytes.
const maxOperatorRequest = 4 << 10

// handler returns the handler of the requests for one action.
func (o *operations) handler(action string, do func(r OperatorRequest, by, at string) (OperatorAnswer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", "POST")
			answer(w, http.StatusMethodNotAllowed, "method: must be POST")
			return
		}
		req, status, err := o.read(r)
		var got OperatorAnswer
		if err == nil {
			status = http.StatusBadRequest
			got, err = do(req, operatorOf(r, o.asks()), placeOf(r))
			if _, ok := errors.AsType[conflict](err); ok || errors.Is(err, errUnknownFingerprint) {
				status = http.StatusConflict // the request is right, and nothing is there
			}
		}
		if err != nil {
			o.audit.refuse(action)
			answer(w, status, err.Error())
			return
		}
		writeJSON(w, got)
	}
}

// read reads a request. The error is the sentence of the answer, with that status.
func (o *operations) read(r *http.Request) (req OperatorRequest, status int, err error) {
	if err := o.mayChange(); err != nil {
		return req, http.StatusForbidden, err
	}
	if r.Header.Get(OperatorHeader) == "" {
		return req, http.StatusForbidden, fmt.Errorf("header %s: must be set, for example to 1, so that no page of another site can send this request", strings.ToLower(OperatorHeader))
	}
	content, err := io.ReadAll(io.LimitReader(r.Body, maxOperatorRequest+1))
	switch {
	case err != nil:
		return req, http.StatusBadRequest, fmt.Errorf("content: cannot be read (%w)", err)
	case len(content) > maxOperatorRequest:
		return req, http.StatusRequestEntityTooLarge, fmt.Errorf("content: must have at most %d bytes", maxOperatorRequest)
	case !utf8.Valid(content):
		return req, http.StatusBadRequest, errors.New("content: must be UTF-8; name a server-id with other bytes by its hash, sha256:…")
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return req, http.StatusBadRequest, fmt.Errorf("content: must be one JSON object with what, why and for (%w)", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return req, http.StatusBadRequest, errors.New("content: must be one JSON object and nothing after it")
	}
	req.Why = wire.Printable(req.Why, operatorText)
	return req, 0, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	status.Headers(w, "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v) // a client that has gone needs no answer
}

// kick closes connections, here and at the other nodes.
func (o *operations) kick(r OperatorRequest, by, at string) (a OperatorAnswer, err error) {
	if r.For != "" {
		return a, errors.New("for: kick takes none; use ban to keep connections out")
	}
	t, err := o.parseTarget(r.What)
	if err != nil {
		return a, err
	}
	a.What = t.shown
	a.add(o.relay.Disconnect(t.Selector, relay.ByOperator, relay.ByOperator, false))
	if t.text != "" {
		o.askOthers(operation{Action: actionKick, What: t.text, Shown: t.shown, Why: r.Why, By: by}, &a)
	}
	o.audit.note(record{actionKick, a.outcome(), t.shown, r.Why, by, at, a.closed()})
	return a, nil
}

// ban keeps connections out for a time, at all nodes, and closes those that are there.
func (o *operations) ban(r OperatorRequest, by, at string) (a OperatorAnswer, err error) {
	d := defaultBan
	if r.For != "" {
		if d, err = time.ParseDuration(r.For); err != nil || d <= 0 || d > relay.MaxBanTime {
			return a, fmt.Errorf("for: %.40q must be a time of up to %d hours, for example 1h or 30m", r.For, int(relay.MaxBanTime.Hours()))
		}
	}
	t, err := o.parseTarget(r.What)
	if err != nil {
		return a, err
	}
	if t.key == (relay.BanKey{}) {
		return a, fmt.Errorf("what: %s is a connection, which can only be disconnected: name its server-id or its address", t.shown)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	b := relay.Ban{Key: t.key, Label: o.label(t), Made: o.madeAfter(t.key, now), Until: now.Add(d), Why: r.Why, By: by}
	if old, ok := o.relay.BanOf(t.key); ok && !old.Lifted && old.Until.After(now) {
		a.Was = &old.Until
	}
	applied, n, err := o.relay.Ban(b)
	switch {
	case err != nil:
		return a, err
	case !applied:
		return a, errOtherOperator
	}
	a.What, a.Until = t.shown, &b.Until
	a.add(n)
	o.finish(actionBan, b, t.shown, by, at, &a)
	return a, nil
}

// errOtherOperator means that a newer record of the same ban is there.
var errOtherOperator = errors.New("what: another operator has changed this ban in the same moment: look at the bans, and try again")

// madeAfter returns the time of a new record of a ban: now, or just after the record that
// there is, because the newest record counts. That one may be of a node with a clock that is
// ahead, or from before this machine's clock was set back.
func (o *operations) madeAfter(key relay.BanKey, now time.Time) time.Time {
	if old, ok := o.relay.BanOf(key); ok && !old.Made.Before(now) {
		return old.Made.Add(time.Microsecond)
	}
	return now
}

// unban lifts a ban, at all nodes.
func (o *operations) unban(r OperatorRequest, by, at string) (a OperatorAnswer, err error) {
	if r.For != "" {
		return a, errors.New("for: unban takes none")
	}
	t, err := o.banned(r.What)
	if err != nil {
		return a, err
	}
	if t.key == (relay.BanKey{}) {
		return a, fmt.Errorf("what: %s is a connection; bans are of server-ids, addresses and networks", t.shown)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	// A node that does not know the ban keeps the record as long as a ban without a
	// duration lasts: another node may send it the ban meanwhile.
	b := relay.Ban{Key: t.key, Made: o.madeAfter(t.key, now), Until: now.Add(defaultBan), Lifted: true, Why: r.Why, By: by}
	if old, ok := o.relay.BanOf(t.key); ok {
		b.Until = old.Until
		a.Lifted = !old.Lifted
	}
	switch applied, _, err := o.relay.Ban(b); {
	case err != nil:
		return a, err
	case !applied && a.Lifted:
		return a, errOtherOperator
	}
	a.What, a.Covered = t.shown, o.covering(t.key)
	o.finish(actionUnban, b, t.shown, by, at, &a)
	return a, nil
}

// covering returns the ban of a wider network that contains the network of key, or "".
func (o *operations) covering(key relay.BanKey) string {
	p := key.Selector().Prefix
	for _, b := range o.relay.Bans() {
		if q := b.Key.Selector().Prefix; p.IsValid() && q.IsValid() && q.Bits() < p.Bits() && q.Contains(p.Addr()) {
			return b.Key.String()
		}
	}
	return ""
}

// leastHash is the number of bytes of sha256: and a hash that name a ban, at least.
const leastHash = len("sha256:") + 8

// banned is parseTarget for a ban in force. The hash of a server-id may be shortened.
func (o *operations) banned(what string) (t target, err error) {
	short := strings.TrimSuffix(what, "…")
	if !strings.HasPrefix(what, "sha256:") || len(short) < leastHash {
		return o.parseTarget(what)
	}
	found := 0
	for _, b := range o.relay.Bans() {
		if strings.HasPrefix(b.Key.String(), short) {
			t = keyTarget(b.Key, cmp.Or(b.Label, b.Key.String()))
			found++
		}
	}
	if found > 1 {
		return t, fmt.Errorf("what: %d bans begin with %s: give more of the hash", found, short)
	}
	if found == 0 {
		return o.parseTarget(what)
	}
	return t, nil
}

// finish tells the other nodes of b, writes it to the disk, and records it.
func (o *operations) finish(action string, b relay.Ban, shown, by, at string, a *OperatorAnswer) {
	o.askOthers(operation{Action: action, Shown: shown, Why: b.Why, By: by, Bans: []banRecord{recordOf(b)}}, a)
	if err := o.store.save(); err != nil {
		a.NotSaved = err.Error()
	}
	a.Saved = o.store != nil && a.NotSaved == ""
	outcome := outcomeDone
	if b.Lifted && !a.Lifted {
		outcome = outcomeNothing
	}
	o.audit.note(record{action, outcome, shown, b.Why, by, at, a.closed()})
}

func (a *OperatorAnswer) add(n relay.Disconnected) {
	a.Binaries += n.Binaries
	a.Phones += n.Phones
	a.Graces += n.Graces
}

func (a *OperatorAnswer) closed() int { return a.Binaries + a.Phones }

func (a *OperatorAnswer) outcome() string {
	if a.closed()+a.Graces == 0 {
		return outcomeNothing
	}
	return outcomeDone
}

// serveBans answers GET with the bans in force, and POST as ban does.
func (o *operations) serveBans(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		o.handler(actionBan, o.ban)(w, r)
		return
	}
	list := BanList{Bans: []BanEntry{}, Saved: o.store != nil}
	for _, b := range o.relay.Bans() {
		if !b.Lifted {
			list.Bans = append(list.Bans, BanEntry{b.Key.String(), b.Label, b.Made, b.Until, b.Why, b.By})
		}
	}
	writeJSON(w, list)
}
