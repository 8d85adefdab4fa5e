package history

import (
	"fmt"
	"time"
)

// Settings are the settings of a run that its checkers need. Times are in nanoseconds.
type Settings struct {
	Exact   bool  // time moves only when no task can run, so that durations are exact
	Shared  bool  // the processes share their server-ids, and operators have no effect on each other's
	Real    bool  // of real processes: what their sockets do, and when they serve, is known from their peers only
	Keys    bool  // some binaries have claim keys
	Tokens  bool  // binaries need a token, and each server-id is bound to one
	Latency int64 // how long bytes that the network has taken are on their way at most
	Room    int   // bytes that the network holds for a peer

	Strangers bool // clients take part of which no event tells

	Rate float64 // upgrades per second that an address may request

	Probe, Write, Message, Linger int64 // the relay's timeouts
	Heartbeat                     int64 // time between two pings

	Cluster *Cluster // nil: each process is alone
}

// slack is how late the relay's alarms may be.
const slack = 100 * int64(time.Millisecond)

// drainSlack is how late a spread drain may close a connection.
const drainSlack = int64(10 * time.Millisecond)

// Run is a run as its checkers see it.
type Run struct {
	Settings
	Events []Event
	Conns  []*Conn // by number; the first is nil
	Nodes  []*Node // by number; the first is nil

	limits   periods[Limits]
	access   periods[Access]
	requests []*request
	sheds    []*shed

	troubles     []trouble // of a cluster
	healedAt     int64
	sessionsLost bool

	violations []Violation
	sampled    []Violation // of checkSample
}

// Violation is a broken invariant.
type Violation struct{ Invariant, Detail string }

// Node is one process.
type Node struct {
	Number       int
	Began        Stamp
	Attempts     [2]int // requests of binaries and of phones
	Drained      Stamp  // the first drain
	Refuses      Stamp  // it refuses connections from then on
	Immediate    Stamp  // the first drain without a spread
	Spread       Stamp  // the first drain with a spread
	CloseBy      int64  // when each connection must have been closed
	Aborted      bool
	Killed       Stamp
	Drains       int    // calls
	Done         int    // drains that reported their end
	Graces       [2]int // slots in grace that ended without a binary: before the drain, in all
	Expired      int    // phones that were in them
	GraceKicks   int    // slots in grace that operators ended
	Reclaimed    int    // slots in grace that got a binary
	RefusedWakes int
	HasAccess    bool
	Froze        bool
	serves       map[string][]Span // by server-id: when its lease let it serve
	unanswered   []int64           // times of calls of the directory
	Last         Metrics           // the last scrape
}

// Conn is one connection.
type Conn struct {
	Dial
	Number, Node int
	Home         int // the last process that registered it as a phone; in a cluster maybe another one
	homes        []int
	DialedAt     Stamp
	UpgradedAt   Stamp
	ServedAt     Stamp // the endpoint was done with it
	Status       int
	Retry        string

	Faults     Fault
	FirstFault int64 // time of the first fault, or of its close message
	Stalls     []Span
	Left       bool
	LeftAt     Stamp
	DribbledAt int64
	CloseSent  bool
	CloseWith  int
	EndedAt    Stamp
	NotAsked   bool

	Closed   bool
	Code     int
	Reason   string
	ClosedAt Stamp

	Flows         map[int]*Flow // of a binary: by phone; of a phone: under 0
	Known         []int         // phones in the order of their first frames
	ReceivedBytes int
	Pings, Pongs  []Ping
	SentAt        []int64 // times at which it sent data or pongs

	messages     []message
	read         int // data messages that the relay has read
	settled      int // of them, when no task ran last
	Frames       int // whole frames that the relay has written to it
	FrameBytes   int
	Closes       int // close messages that the relay has written
	WroteCode    int
	WroteClose   int64
	afterClose   bool
	waited       int64 // the longest wait of a write
	SocketClosed Stamp

	// For checkSample, while the history is read.
	settledFrames             int // of settled, those that are counted as frames
	queuedBytes, queuedFrames int // sent to it, less those written; a frame for a binary counts for all of its server-id
	smallest                  int // size of the smallest frame that it has sent
}

// message is a data message that a peer sends: what it is, and the bytes sent up to its end.
type message struct{ kind, end int }

// Span is a time between two moments.
type Span struct{ From, To Stamp }

// Ping is the number of a ping, and when it was written or answered.
type Ping struct {
	N int
	Stamp
}

// Frame is a frame that was sent.
type Frame struct {
	Stamp
	Size int
}

// Order is a close directive, after so many frames.
type Order struct {
	Frames int
	Code   int
	At     Stamp
}

// Flow is the frames between a phone and a binary, as one of them sees it.
type Flow struct {
	Sent    []Frame
	Got     []Stamp
	From    int // of a phone: its binary
	Orders  []Order
	Notices int
	Notice  int // code
	ToldAt  Stamp

	checked int // frames that CheckReceived has seen
}

// Upgraded reports whether the connection was upgraded.
func (c *Conn) Upgraded() bool { return c.UpgradedAt.Step != 0 }

// Open reports whether the peer can still send at the end of the run.
func (c *Conn) Open() bool {
	return c.Upgraded() && !c.Left && c.EndedAt.Step == 0 && !c.CloseSent && !c.Closed
}

// Flow returns the flow with a phone, or of a phone with 0. It is empty if there is none.
func (c *Conn) Flow(n int) *Flow {
	if f := c.Flows[n]; f != nil {
		return f
	}
	return &Flow{}
}

func (c *Conn) flow(n int) *Flow {
	if c.Flows == nil {
		c.Flows = map[int]*Flow{}
	}
	if c.Flows[n] == nil {
		c.Flows[n] = &Flow{}
	}
	return c.Flows[n]
}

// FirstFrame is when a binary got its first frame of a phone. From then on it certainly
// holds its slot.
func (c *Conn) FirstFrame() Stamp {
	if len(c.Known) == 0 {
		return Stamp{}
	}
	return c.Flows[c.Known[0]].Got[0]
}

// KnownEnd is the latest time at which the relay can have learned of c's end: never, if
// the peer vanished.
func (c *Conn) KnownEnd() Stamp {
	switch {
	case !c.Upgraded():
		return c.ServedAt
	case c.Left:
		return Stamp{}
	}
	return c.EndedAt
}

// blameless reports whether only the relay can have ended c, without waiting for the peer.
func (c *Conn) blameless() bool { return c.Closed && c.Faults == 0 && !c.CloseSent && !c.Left }

// end returns the end of the time in which c can have been refused or closed.
func (c *Conn) end() Stamp {
	if c.Upgraded() {
		return c.ClosedAt
	}
	return c.ServedAt
}

// Endpoint is 0 for a binary and 1 for a phone.
func (c *Conn) Endpoint() int {
	if c.Phone {
		return 1
	}
	return 0
}

// Frames counts the messages among the first n that are counted as frames.
func (c *Conn) frames(n int) (frames, strays int) {
	for _, m := range c.messages[:n] {
		if m.kind&MessageBare == 0 {
			frames++
		}
		if m.kind&MessageStray != 0 {
			strays++
		}
	}
	return frames, strays
}

// Accepted returns how many frames of c the relay has certainly accepted, and at most.
func (c *Conn) Accepted() (least, most int) {
	least, _ = c.frames(c.settled)
	return least, c.read
}

// All returns the connections.
func (r *Run) All() []*Conn { return r.Conns[1:] }

// of returns the process of a connection.
func (r *Run) of(c *Conn) *Node { return r.Nodes[c.Node] }

// apart reports whether two processes share no server-ids.
func (r *Run) apart(a, b int) bool { return a != b && !r.Shared }

// Binaries reports whether match is true for a binary that may have served c.
func (r *Run) Binaries(c *Conn, match func(b *Conn) bool) bool {
	for _, b := range r.All() {
		if b != c && !b.Phone && b.Server == c.Server && !r.apart(b.Node, c.Node) && b.Upgraded() && match(b) {
			return true
		}
	}
	return false
}

// Others counts the connections that may have held a place at the same time as c.
func (r *Run) Others(c *Conn, match func(*Conn) bool) int {
	n, until := 0, c.end()
	for _, o := range r.All() {
		if o != c && o.Node == c.Node && !o.DialedAt.After(until) && r.mayHold(o, c.DialedAt) && match(o) {
			n++
		}
	}
	return n
}

// mayHold reports whether the relay may still have counted o at a moment after its dial: until
// it was refused, or its socket was closed. What comes after that may take until time moves.
func (r *Run) mayHold(o *Conn, at Stamp) bool {
	end := o.ServedAt
	if o.Upgraded() {
		end = o.SocketClosed
	}
	return !r.Exact || end.Step == 0 || end.At >= at.At
}

// fail reports a broken invariant.
func (r *Run) fail(invariant, format string, args ...any) {
	r.violations = append(r.violations, Violation{invariant, fmt.Sprintf(format, args...)})
}

// blame reports a broken invariant of a connection.
func (r *Run) blame(invariant string, c *Conn, format string, args ...any) {
	r.fail(invariant, "%s (%s): "+format, append([]any{c.Name, c.Server}, args...)...)
}
