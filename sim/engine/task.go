package engine

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// A Kind is a kind of yield point.
type Kind uint8

// The kinds of yield points. A world may use the socket kinds as it needs.
const (
	AtOp      Kind = iota + 1 // between two operations of an actor
	AtLock                    // before acquiring a lock
	AtBlocked                 // blocked on a lock
	AtLocked                  // has acquired a lock
	AtUnlock                  // has just released a lock
	AtArm                     // about to arm a timer
	AtFire                    // the clock has reached a deadline
	AtGauge                   // has just set a gauge
	AtGo                      // has just started a task
	AtWait                    // parked until another task wakes it
	AtRead                    // a socket read
	AtWrite                   // a socket write
	AtClose                   // a socket close
	AtPoint                   // anything else a world wants to order
	AtExit                    // has ended
	AtPool                    // takes from a pool, or has given back to one
	AtFault                   // a fault point fails
	kinds
)

var kindNames = [kinds]string{"", "op", "lock", "blocked", "locked", "unlock", "arm", "fire",
	"gauge", "go", "wait", "read", "write", "close", "point", "exit", "pool", "fault"}

func (k Kind) String() string { return kindNames[k] }

type state uint8

const (
	runnable state = iota
	blocked        // on a lock
	parked         // on a gate, a deadline, or both
	done           // its function has returned; the goroutine waits for the run's end
	gone           // the goroutine has ended
)

// A Task is one real goroutine of a run. It runs only while the engine's
// cur points at it.
type Task struct {
	ID    int
	Actor int    // which actor it is; -1 for tasks that actors' work started
	Name  string // of an actor; of another task the name that it was started with

	// Origin: the point at which another task started it.
	parent *Task
	born   point
	word   string // Name, as a part of a title; empty: a timer started it
	nth    int    // of the tasks of that word that the parent's operation started
	key    uint64 // the title as a number
	oldKey uint64 // of its title in files that name tasks go1, go2, ...
	timer  *Timer // the timer that fired, if one did

	f          func()
	wake       chan struct{}
	state      state
	readyIndex int // index in the engine's list of runnable tasks

	op    int           // label of the current operation; 0 in tasks that are no actors
	first int32         // label of the first one
	order int           // position in the run's lines, which a run without switches follows
	occ   [kinds]uint16 // how often this operation has been at each kind
	at    point
	armed *Timer // the last timer that this operation armed

	process *Process // that it belongs to, or nil
	life    int      // of that process

	lock *Lock // blocked on
	gate *Gate // parked on
	due  int64 // parked until; never if negative
	prio uint64

	Data any // the world's own

	seen *int // written by the task as it begins; see witness
}

// A point is the n-th yield point of one kind in an operation. It identifies a
// position in a run by events and not by time.
type point struct {
	op   int32
	occ  uint16
	kind Kind
}

//go:norace
func (p point) Mix(task uint64) uint64 {
	return Mix(Mix(task^uint64(p.op)*0x9e3779b97f4a7c15) + uint64(p.kind)<<32 + uint64(p.occ))
}

// Timer is the timer that started the task, or nil.
//
//go:norace
func (t *Task) Timer() *Timer { return t.timer }

// Armed is the last timer armed by the task's current operation, or nil.
//
//go:norace
func (t *Task) Armed() *Timer { return t.armed }

// begin starts the actor's next operation, with a yield point before it.
//
//go:norace
func (t *Task) begin(e *Run, op, order int) {
	t.op, t.order, t.armed = op, order, nil
	for i := range t.occ {
		t.occ[i] = 0
	}
	e.yield(AtOp, 0)
}

// body is the goroutine of a task.
func (e *Run) body(t *Task) {
	defer e.leave(t)
	e.wait(t)
	if e.unwinding() {
		return
	}
	if t.seen != nil {
		*t.seen = 1
	}
	if t.timer != nil {
		acquire(&t.timer.edge)
	}
	if msg := guard(t.f); msg != "" {
		e.Fail("panic", "%s", msg)
	}
	e.exit(t)
}

// leave lets the driver unwind the next task.
//
//go:norace
func (e *Run) leave(t *Task) {
	t.state = gone
	release(&e.fin)
	hideOn()
	e.driver <- struct{}{}
	hideOff()
}

//go:norace
func (e *Run) unwinding() bool {
	if e.mode != unwinding {
		return false
	}
	acquire(&e.fin)
	return true
}

// park hands over to another task, or to the driver for nil, and waits until
// t is chosen again. The hand-over is hidden from the race detector, which
// would otherwise take it for a happens-before edge.
//
//go:norace
func (e *Run) park(t, next *Task) {
	e.cur = next
	if e.plain {
		e.wakeTask(next)
	} else {
		hideOn()
		e.wakeTask(next)
		hideOff()
	}
	e.wait(t)
	if (t.state != done || t.dead()) && e.unwinding() {
		runtime.Goexit()
	}
}

//go:norace
func (e *Run) wait(t *Task) {
	if e.plain {
		<-t.wake
		return
	}
	hideOn()
	<-t.wake
	hideOff()
}

//go:norace
func (e *Run) wakeTask(next *Task) {
	if next == nil {
		e.driver <- struct{}{}
	} else {
		next.wake <- struct{}{}
	}
}

// exit ends a task; its goroutine stays parked until the run's end, since
// the detector forgets races of goroutines that are gone.
//
//go:norace
func (e *Run) exit(t *Task) {
	if e.inst != nil {
		e.checking = true
		e.inst.Ended(t)
		e.checking = false
	}
	e.removeReady(t, done)
	release(&e.fin)
	e.point(t, AtExit, 0)
	e.park(t, e.pick(t))
	if e.mode == unwinding {
		acquire(&e.fin)
	}
}

// removeReady removes a task from the list of runnable tasks.
//
//go:norace
func (e *Run) removeReady(t *Task, s state) {
	t.state = s
	e.nready--
	last := e.ready[e.nready]
	e.ready[t.readyIndex] = last
	last.readyIndex = t.readyIndex
}

// addReady makes a task runnable.
//
//go:norace
func (e *Run) addReady(t *Task) {
	t.state, t.lock, t.gate, t.due = runnable, nil, nil, -1
	t.readyIndex = e.nready
	e.ready[e.nready] = t
	e.nready++
}

// Names of tasks and points, which mean the same in any run that comes
// there: b1 is an actor, b1.2 its second operation, b1.2/reader1 the first task with
// the name reader that one started, b1.2/arm1 the task of the first timer that it
// armed, b1.2@unlock1 the point at which it has given back its first lock. Older
// files number all tasks that an operation started: b1.2/go1.

//go:norace
func HashName(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(name); i++ {
		h = Mix(h ^ uint64(name[i]))
	}
	return h
}

// Title returns the task's name.
func (t *Task) Title() string {
	if t == nil {
		return "no task"
	}
	if t.parent == nil {
		return t.Name
	}
	if t.word == "" {
		return t.parent.site(t.born.op) + "/" + t.born.kind.String() + strconv.Itoa(int(t.born.occ))
	}
	return t.parent.site(t.born.op) + "/" + t.word + strconv.Itoa(t.nth)
}

// titleWord makes the name of a task a part of a title: letters and dashes, which a
// number can follow.
func titleWord(name string) string {
	word := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	switch {
	case word == "":
		return "task"
	case strings.TrimRight(word, "0123456789") != word:
		return word + "-"
	case slices.Contains(kindNames[:], word):
		return word + "-task"
	}
	return word
}

// wordKey returns the key of the n-th task of that word that the operation op of
// the parent started.
//
//go:norace
func wordKey(parent uint64, op int32, word string, n int) uint64 {
	return point{op: op, occ: uint16(n), kind: AtGo}.Mix(parent^HashName(word)) + 1
}

// named gives a task that is not an actor its title, and its keys.
//
//go:norace
func (e *Run) named(t *Task, name string) {
	p := t.parent
	t.oldKey = t.born.Mix(p.oldKey) + 1
	if name == "" {
		t.key = t.born.Mix(p.key) + 1
		return
	}
	t.Name, t.word, t.nth = name, titleWord(name), 1
	for i := 1; i < e.ntasks; i++ {
		if o := e.tasks[i]; o != t && o.parent == p && o.born.op == t.born.op && o.word == t.word {
			t.nth++
		}
	}
	t.key = wordKey(p.key, t.born.op, t.word, t.nth)
}

// site returns the task's name with the operation, if it has any.
func (t *Task) site(op int32) string {
	if op == 0 {
		return t.Title()
	}
	return t.Title() + "." + strconv.Itoa(int(op))
}

// pointName returns the name of a point of the task.
func (t *Task) pointName(p point) string {
	return t.site(p.op) + "@" + p.kind.String() + strconv.Itoa(int(p.occ))
}

// taskKey turns a task's title into its key, or an older one into its oldKey.
func taskKey(title string) (uint64, bool) {
	first, rest, nested := strings.Cut(title, "/")
	actor, op, ok := cutOp(first)
	if !ok || actor == "" || !nested && op != 0 {
		return 0, false
	}
	key := HashName(actor)
	for nested {
		first, rest, nested = strings.Cut(rest, "/")
		word := strings.TrimRight(first, "0123456789")
		n, err := strconv.ParseUint(first[len(word):], 10, 16)
		switch {
		case err != nil || word == "":
			return 0, false
		case slices.Contains(kindNames[:], word):
			p, _ := parseKind(first)
			p.op = int32(op)
			key = p.Mix(key) + 1
		case titleWord(word) != word:
			return 0, false
		default:
			key = wordKey(key, int32(op), word, int(n))
		}
		op = 0
	}
	return key, true
}

// pointKey turns a point's name into its key.
func pointKey(name string) (uint64, bool) {
	site, at, ok := strings.Cut(name, "@")
	if !ok {
		return 0, false
	}
	p, ok := parseKind(at)
	if !ok {
		return 0, false
	}
	if !strings.Contains(site, "/") {
		actor, op, ok := cutOp(site)
		p.op = int32(op)
		return p.Mix(HashName(actor)), ok
	}
	key, ok := taskKey(site)
	return p.Mix(key), ok
}

func cutOp(s string) (string, int, bool) {
	name, op, ok := strings.Cut(s, ".")
	if !ok {
		return s, 0, true
	}
	n, err := strconv.Atoi(op)
	return name, n, err == nil && n > 0
}

// parseKind parses a kind of yield point and its occurrence, as in lock2.
func parseKind(s string) (point, bool) {
	name := strings.TrimRight(s, "0123456789")
	n, err := strconv.ParseUint(s[len(name):], 10, 16)
	if err != nil {
		return point{}, false
	}
	for k := Kind(1); k < kinds; k++ {
		if k.String() == name {
			return point{kind: k, occ: uint16(n)}, true
		}
	}
	return point{}, false
}

func checkNames(l Line) error {
	if l.Begins != "" {
		if _, ok := taskKey(l.Begins); !ok {
			return fmt.Errorf("%q names no task", l.Begins)
		}
	}
	if l.At != "" {
		if _, ok := pointKey(l.At); !ok {
			return fmt.Errorf("%q names no point", l.At)
		}
		if _, ok := taskKey(l.Run); !ok {
			return fmt.Errorf("%q names no task", l.Run)
		}
	}
	return nil
}

// waits describes where a task is: its name, the kind of yield point, and the name
// of the lock or channel, if it has one.
func (e *Run) waits(t *Task) string {
	s := t.Title() + " at " + t.at.kind.String()
	for i := e.steps - 1; i >= 0 && i < len(e.trace); i-- {
		x := &e.trace[i]
		if x.task != int32(t.ID) {
			continue
		}
		if x.obj != 0 {
			return s + " " + e.names[x.obj]
		}
		if x.at.kind != t.at.kind {
			break
		}
	}
	return s
}
