package history

import (
	"sync"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Stamp is the moment of an event: nanoseconds since the run began, and a number that
// grows from event to event. Never is after everything.
type Stamp = engine.Stamp

// Kind is the kind of an event.
type Kind uint8

// The kinds of events, and the fields that each uses in addition to its moment.
const (
	NodeUp   Kind = iota + 1 // Node: a process has started
	NodeDown                 // Node: it has been killed

	// Connections, as their peers see them.
	Dialled    // Node Conn Data(*Dial): a peer asks for a connection
	Registered // Node Conn: the process gives the phone a conn-id
	Upgraded   // Conn
	Answered   // Conn N(status, 0 if it was upgraded) Text(Retry-After): the endpoint is done with it
	Sent       // Conn Peer(phone, 0 if a phone sends) Size: a frame
	Received   // Conn Peer(sender) To N(number from 1) Size: a frame; To is the phone that it is for
	Garbled    // Conn Text: a message that breaks the protocol, or a frame that is not as it was sent
	Noticed    // Conn Peer(phone) N(code): the binary is told that a phone is gone
	Ordered    // Conn Peer(phone) N(code): the binary closes a phone
	Message    // Conn N(MessageBare, MessageStray) To(bytes sent in all, up to its end): the peer sends any data message
	Ponged     // Conn N(the ping): the peer answers a ping
	CloseSent  // Conn N(code)
	Closed     // Conn N(code) Text(reason): the relay's close message has arrived
	Ended      // Conn: the connection has ended for the peer
	FaultBegan // Conn N(Fault): of a peer or of the network
	FaultEnded // Conn N(Fault)
	Asked      // Conn Text(kind of wake): the binary asks for a push wake
	Pushed     // Node Conn N(number of the wake) Text(server-id): a wake is handed on; N is negative if push refused it
	NotAsked   // Conn: the verifier did not answer about it

	// Connections, as the relay's sockets see them.
	BytesRead    // Conn N: so many bytes have been read in all
	Settled      // Conn: what was read has been handed on, and nothing waits to be written
	Pinged       // Conn N(the ping): a ping is written
	Wrote        // Conn Size: a whole frame is written; Size is its payload
	WroteClose   // Conn N(code)
	WroteAfter   // Conn: bytes are written after a close
	WriteWaited  // Conn N(nanoseconds): the longest wait of a write grows to this
	SocketClosed // Conn

	// Processes and their operators.
	LimitsBegan    // Node Data(*Limits): limits begin to come into force
	LimitsSet      // Node: only the newest limits are in force
	AccessBegan    // Node Data(*Access): a list begins to come into force
	AccessSet      // Node: what the newest list excludes is closed
	RequestBegan   // Node Data(*Request): an operator disconnects or bans
	RequestEnded   // Node N(connections closed, as the relay reports) Data(the same)
	LiftBegan      // Node Data(the same): the ban is being lifted
	LiftEnded      // Node Data(the same)
	ShedBegan      // Node N(bytes): ShedLoad is called
	ShedClosed     // Conn To(the call, from 0): it closes the connection
	ShedEnded      // Node To N(connections closed, as it reports)
	DrainBegan     // Node N(nanoseconds of the spread)
	DrainRefuses   // Node: it accepts no connection any more
	DrainDone      // Node: it reports that its last socket is closed
	Aborted        // Node
	GraceBegan     // Node
	GraceEnded     // Node N(phones in it): without a binary
	GraceReclaimed // Node
	GraceKicked    // Node N: operators ended so many graces
	Sampled        // Node Data(*Sample): no task runs
	QuietBegan     // from here on no peer does anything but answer pings
	QuietEnded
	Scraped // Node To(step at which it began) Data(Metrics)

	// Clusters.
	MayServe     // Node N(1: from now on; 0: no longer) Text(server-id): its lease says so
	Froze        // Node: the process stops for a while
	Unanswered   // Node: a call of the directory gets no answer
	Written      // Node: it changes the directory, other than to keep its session alive
	SessionsLost // the directory ends sessions of processes that live
	TroubleBegan // N(nanoseconds, or -1: until TroubleEnded) Peer(1: it is a drain): a fault of the directory, of the network between processes, or of a process
	TroubleEnded // all troubles with -1
	TroublesOver // nothing goes wrong from here on
	Acted        // Node(0: all) Text: what the world does to a process, for a chart
)

// Event is one thing that happened in a run.
type Event struct {
	Stamp
	Kind Kind
	Node int // number of the process, from 1
	Conn int // number of the connection, from 1
	Peer int // number of another connection
	To   int
	N    int
	Size int
	Text string
	Data any
}

// Dial is what a peer asks for when it connects.
type Dial struct {
	Phone   bool
	Server  string // server-id
	Name    string // of the connection
	Address string // of the peer
	Key     bool   // with the claim key of the server-id
	Token   string // of a binary; empty: none
	Invalid int    // the status with which the endpoint must refuse the request; 0: none
}

// Limits are the limits that operators change.
type Limits struct {
	Phones, Conns, PerAddress, Burst int
	PhoneOutbox                      int // bytes
	Grace                            int64
}

// Access is a list of the server-ids, or of the tokens, that may use the relay.
type Access struct {
	Allows    map[string]bool
	ExpiresAt int64  // when Expires loses its access; 0: none does
	Expires   string // server-id or token
}

// Request is a request of an operator: to disconnect, or to ban.
type Request struct {
	Server  string // all clients with that server-id, or empty
	Address string // all clients of that address, or empty
	Phone   int    // that phone, or 0
	Ban     bool
	Until   int64 // end of a ban
}

// Sample is what a process counts while no task runs, and what its sockets show then.
type Sample struct {
	Counted  int  // frames forwarded or dropped
	Blocked  bool // a write waits, so that accepted frames may not be counted yet
	Gauges   Gauges
	Binaries int // in slots
	Parked   int // phones with a parked reader
}

// Gauges are gauges of what changes too often for a scrape to find it.
type Gauges struct {
	Connections, Parked, Waiting  int
	PhoneOutboxes, BinaryOutboxes int // bytes
}

// Metrics are the values of all series by name and label values: "name value value".
// The count of a histogram is in "name values count".
type Metrics map[string]float64

// Values of Message.
const (
	MessageBare  = 1 << iota // a directive without a frame, or a wake that push accepts: it is not counted
	MessageStray             // an envelope for a phone that never was one of this binary
)

// Fault is an action of a peer or of the network that excuses some behaviour of the relay.
type Fault uint16

const (
	DidStall Fault = 1 << iota
	DidIgnorePings
	DidVanish
	DidHangUp
	DidBreak
	DidBad
	DidBig
	DidDribble
	WasReset
	WasCut

	leaves = DidVanish | DidHangUp | WasReset | WasCut // the peer sends no more
)

const (
	chunkSize = 512
	maxChunks = 1024
)

// Log records the events of a run. In the simulator one task runs at a time, and the race
// detector must not see an order between tasks that write; so Add is hidden from it, and a
// Log has no lock. Real processes use a Recorder.
type Log struct {
	chunks [maxChunks]*[chunkSize]Event
	n      int
}

// Add records an event. Beyond half a million events it drops them.
//
//go:norace
func (l *Log) Add(e *Event) {
	c := l.n / chunkSize
	if c == maxChunks {
		return
	}
	if l.chunks[c] == nil {
		l.chunks[c] = new([chunkSize]Event)
	}
	l.chunks[c][l.n%chunkSize] = *e
	l.n++
}

// Events returns the events in their order. Call it after the run.
func (l *Log) Events() []Event {
	all := make([]Event, 0, l.n)
	for i := 0; i < l.n; i += chunkSize {
		all = append(all, l.chunks[i/chunkSize][:min(chunkSize, l.n-i)]...)
	}
	return all
}

// Recorder records the events of real processes. Its methods may be called from any
// goroutine.
type Recorder struct {
	mu    sync.Mutex
	log   []Event
	conns int
}

// Conn returns the number of a new connection.
func (r *Recorder) Conn() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	return r.conns
}

// Add records an event that happens at a time of the caller's clock, in nanoseconds.
func (r *Recorder) Add(at int64, e Event) { r.add(func() int64 { return at }, 0, e) }

// add is Add with a clock, which it reads so that later events have later times. It drops
// the event if the history has most events already; 0: no limit.
func (r *Recorder) add(now func() int64, most int, e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if most > 0 && len(r.log) >= most {
		return
	}
	e.Stamp = Stamp{At: now(), Step: len(r.log) + 1}
	r.log = append(r.log, e)
}

// Events returns the events so far.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.log...)
}
