package history

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Peers records what clients of real processes send and receive. It learns which conn-id
// belongs to which phone from the frames: see resolve.
type Peers struct {
	Recorder
	strangers atomic.Bool
	begun     time.Time
}

// NewPeers returns Peers without events. Their times count from this call.
func NewPeers() *Peers { return &Peers{begun: time.Now()} }

// Strangers notes that clients take part of which Peers is not told.
func (p *Peers) Strangers() { p.strangers.Store(true) }

// Add records an event that happens now.
func (p *Peers) Add(e Event) {
	p.add(func() int64 { return time.Since(p.begun).Nanoseconds() }, maxPeerEvents, e)
}

// maxPeerEvents bounds the memory of a history. What happens later is not recorded, so
// that the checkers judge the beginning of the run.
const maxPeerEvents = 300_000

// Peer is one connection, from its dial. It implements wstest.Observer.
type Peer struct {
	of     *Peers
	number int
	phone  bool
	ended  atomic.Bool
	closed atomic.Bool // the relay has closed it
}

// Dial records that a peer connects to a process.
func (p *Peers) Dial(node int, d Dial) *Peer {
	o := &Peer{of: p, number: p.Conn(), phone: d.Phone}
	p.Add(Event{Kind: Dialled, Node: node, Conn: o.number, Data: &d})
	return o
}

func (o *Peer) add(e Event) {
	e.Conn = o.number
	o.of.Add(e)
}

// Answered records the status of the answer over HTTP; 101 is an upgrade.
func (o *Peer) Answered(status int, retryAfter string) {
	if status == 101 {
		o.add(Event{Kind: Upgraded})
		status = 0
	}
	o.add(Event{Kind: Answered, N: status, Text: retryAfter})
}

// SendsBytes records that the frames of o are not known any more.
func (o *Peer) SendsBytes() { o.add(Event{Kind: FaultBegan, N: int(DidBreak)}) }

// Sends records a frame, of which first is the first byte.
func (o *Peer) Sends(first byte, payload []byte) {
	switch first {
	case 0x81, 0x82:
		o.sends(payload)
	case 0x88:
		if o.closed.Load() {
			return // the answer
		}
		code, _ := ParseClose(payload)
		o.add(Event{Kind: CloseSent, N: code})
	case 0x89, 0x8a: // a ping or a pong
	default:
		o.SendsBytes()
	}
}

// maxNesting is a number of brackets with which a frame may be nested too deeply.
const maxNesting = 64

// sends records a message.
func (o *Peer) sends(payload []byte) {
	if o.phone {
		if !json.Valid(payload) || !utf8.Valid(payload) || bytes.Count(payload, []byte("["))+bytes.Count(payload, []byte("{")) > maxNesting {
			o.add(Event{Kind: FaultBegan, N: int(DidBad)})
		}
		o.add(Event{Kind: Sent, N: digest(payload), Size: len(payload)})
		return
	}
	e, ok := parse(payload)
	switch {
	case !ok || e.ConnID == "":
		return // not for a phone
	case e.Frame != nil && string(e.Frame) != "null":
		o.add(Event{Kind: Sent, Text: e.ConnID, N: digest(e.Frame), Size: len(e.Frame)})
	}
	if e.CloseCode != 0 {
		o.add(Event{Kind: Ordered, Text: e.ConnID, N: e.CloseCode})
	}
}

// Receives records a frame from the relay. The relay does not fragment messages.
func (o *Peer) Receives(op byte, payload []byte) {
	switch {
	case op == 8:
		o.closed.Store(true)
		code, text := ParseClose(payload)
		o.add(Event{Kind: Closed, N: code, Text: text})
	case op != 1:
	case o.phone:
		o.add(Event{Kind: Received, N: digest(payload), Size: len(payload)})
	default:
		o.receivesEnvelope(payload)
	}
}

func (o *Peer) receivesEnvelope(payload []byte) {
	switch e, ok := parse(payload); {
	case !ok || e.ConnID == "" || e.Frame == nil && e.CloseCode == 0:
		o.add(Event{Kind: Garbled, Text: "envelope", Data: string(payload[:min(len(payload), 200)])})
	case e.Frame == nil:
		o.add(Event{Kind: Noticed, Text: e.ConnID, N: e.CloseCode, Size: len(payload)})
	default:
		o.add(Event{Kind: Received, Text: e.ConnID, N: digest(e.Frame), Size: len(e.Frame)})
	}
}

// ParseClose returns the code and the reason of a close message, or 0 if it has none.
func ParseClose(payload []byte) (code int, reason string) {
	if len(payload) < 2 {
		return 0, ""
	}
	return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
}

// Leaves records that the peer closes its connection.
func (o *Peer) Leaves() {
	if !o.ended.Swap(true) {
		o.add(Event{Kind: FaultBegan, N: int(DidHangUp)})
	}
}

// Ends records that the connection has ended.
func (o *Peer) Ends() {
	if !o.ended.Swap(true) {
		o.add(Event{Kind: Ended})
	}
}

// peerEnvelope is an envelope between a binary and the relay.
type peerEnvelope struct {
	ConnID    string          `json:"conn_id"`
	Frame     json.RawMessage `json:"frame"`
	CloseCode int             `json:"close_code"`
}

// The usual form of an envelope is parsed without encoding/json, which reads the frame, too.
var envelopeBegin, envelopeFrame = []byte(`{"conn_id":"`), []byte(`","frame":`)

func parse(b []byte) (e peerEnvelope, ok bool) {
	if rest, usual := bytes.CutPrefix(b, envelopeBegin); usual {
		id, frame, found := bytes.Cut(rest, envelopeFrame)
		if n := len(frame); found && len(id) == connIDLength && n > 1 && frame[n-1] == '}' && !bytes.Contains(frame[max(0, n-40):], []byte("close_code")) {
			return peerEnvelope{ConnID: string(id), Frame: frame[:n-1]}, true
		}
	}
	return e, json.Unmarshal(b, &e) == nil
}

// connIDLength is the length of a conn-id: c- and 16 hexadecimal digits.
const connIDLength = 18

var digestSeed = maphash.MakeSeed()

// digest returns what identifies a frame: its hash, without white space around it.
func digest(frame []byte) int { return int(maphash.Bytes(digestSeed, bytes.TrimSpace(frame)) >> 1) }

// Read returns the history so far as checkers see it.
func (p *Peers) Read(s Settings) *Run {
	s.Real, s.Strangers = true, s.Strangers || p.strangers.Load()
	return Read(resolve(p.Events(), s.Strangers), s)
}

// A stream is the frames of one conn-id as its binary sees them, or of a phone as the phone
// sees them: indices of events.
type stream struct {
	conn       int
	id         string
	phone      bool
	server     string
	up, down   []int   // to the binary, to the phone
	of         *stream // its counterpart
	candidates []*stream
}

// resolve replaces conn-ids by phones. A conn-id belongs to a phone if the binary received
// under it what the phone had sent by then, in order and without gaps, and the phone
// received what the binary had sent under it. A conn-id or a phone that then has no
// counterpart breaks "order", unless frames of others are unknown.
func resolve(events []Event, strangers bool) []Event {
	r := resolver{events: events, ids: map[connID]*stream{}, phones: map[int]*stream{}, unknown: map[string]bool{"": strangers}}
	for i := range events {
		r.next(i)
	}
	r.match()
	return r.rewrite()
}

// connID is a conn-id at one binary.
type connID struct {
	conn int
	id   string
}

type resolver struct {
	events  []Event
	ids     map[connID]*stream
	phones  map[int]*stream
	streams []*stream
	dials   []Dial          // by connection
	unknown map[string]bool // server-ids of which not all frames are known; "": all
}

// next adds event i to its stream.
func (r *resolver) next(i int) {
	e := &r.events[i]
	if e.Kind == Dialled {
		for len(r.dials) <= e.Conn {
			r.dials = append(r.dials, Dial{})
		}
		r.dials[e.Conn] = *e.Data.(*Dial)
		return
	}
	if e.Conn < 1 || e.Conn >= len(r.dials) {
		return
	}
	d := &r.dials[e.Conn]
	if e.Kind == FaultBegan && Fault(e.N) == DidBreak {
		r.unknown[d.Server] = true
	}
	if e.Kind != Sent && e.Kind != Received {
		return
	}
	s := r.stream(e)
	if e.Kind == Sent == d.Phone {
		s.up = append(s.up, i)
	} else {
		s.down = append(s.down, i)
	}
}

func (r *resolver) stream(e *Event) (s *stream) {
	d, key := &r.dials[e.Conn], connID{e.Conn, e.Text}
	if d.Phone {
		s = r.phones[e.Conn]
	} else {
		s = r.ids[key]
	}
	if s == nil {
		s = &stream{conn: e.Conn, id: e.Text, phone: d.Phone, server: d.Server}
		r.streams = append(r.streams, s)
		if d.Phone {
			r.phones[e.Conn] = s
		} else {
			r.ids[key] = s
		}
	}
	return s
}

// carries reports whether the second end has received what the first had sent before.
func (r *resolver) carries(sent, got []int) bool {
	for i, k := range got {
		if i >= len(sent) || sent[i] > k || r.events[sent[i]].N != r.events[k].N {
			return false
		}
	}
	return true
}

// match finds a phone for each conn-id, by augmenting paths: the most that can be matched.
func (r *resolver) match() {
	phones := map[string][]*stream{}
	for _, s := range r.streams {
		if s.phone {
			phones[s.server] = append(phones[s.server], s)
		}
	}
	for _, s := range r.streams {
		if s.phone || len(s.up) == 0 {
			continue
		}
		for _, p := range phones[s.server] {
			if r.carries(p.up, s.up) && r.carries(s.down, p.down) {
				s.candidates, p.candidates = append(s.candidates, p), append(p.candidates, s)
			}
		}
	}
	// Phones that have received frames come first: a path keeps what is matched.
	for _, phones := range [2]bool{true, false} {
		for _, s := range r.streams {
			if s.phone == phones && s.of == nil && (!phones || len(s.down) > 0) {
				s.augment(map[*stream]bool{})
			}
		}
	}
}

// augment gives s a counterpart, and another one to the stream that had it.
func (s *stream) augment(tried map[*stream]bool) bool {
	for _, o := range s.candidates {
		if tried[o] {
			continue
		}
		tried[o] = true
		if o.of == nil || o.of.augment(tried) {
			s.of, o.of = o, s
			return true
		}
	}
	return false
}

// rewrite returns the events with the numbers of connections and of frames.
func (r *resolver) rewrite() []Event {
	count := map[*stream]int{}
	all := make([]Event, 0, len(r.events))
	for _, e := range r.events {
		switch e.Kind {
		case Sent, Received:
			s := r.stream(&e)
			switch {
			case s.of == nil && (e.Kind == Sent && !s.phone || r.unknown[""] || r.unknown[s.server]):
				continue
			case s.of == nil && e.Kind == Received:
				if count[s]++; count[s] > 1 {
					continue
				}
				e.Kind, e.Text, e.Data = Garbled, "order", r.unmatched(s)
			case s.of == nil:
				e.N = 0 // of a phone: no binary has received it
			default:
				r.number(&e, s, count)
			}
		case Noticed, Ordered:
			s := r.ids[connID{e.Conn, e.Text}]
			if s == nil || s.of == nil {
				continue
			}
			e.Peer, e.Text = s.of.conn, ""
		}
		all = append(all, e)
	}
	return all
}

// number gives a frame the number of its peer and its own.
func (r *resolver) number(e *Event, s *stream, count map[*stream]int) {
	e.Text = ""
	if e.Kind == Sent {
		e.N = 0
		if !s.phone {
			e.Peer = s.of.conn
		}
		return
	}
	count[s]++
	e.Peer, e.N, e.To = s.of.conn, count[s], s.of.conn
	if s.phone {
		e.To = s.conn
	}
}

// unmatched describes the frames that nothing explains.
func (r *resolver) unmatched(s *stream) string {
	if s.phone {
		return "its frames are not those that one binary sent it, in this order"
	}
	for _, p := range r.streams {
		if p.phone && p.server == s.server && len(p.up) > 0 && r.events[p.up[0]].N == r.events[s.up[0]].N {
			return "under " + s.id + " frames that no phone sent so; " + r.dials[p.conn].Name + " sent the first, and not the one that follows"
		}
	}
	return "under " + s.id + " frames that no phone has sent"
}
