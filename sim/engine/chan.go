package engine

import "reflect"

// A Chan is a channel of T. Without a run it is a Go channel. In a run it behaves
// like one: it has the same blocking rules, the same panics and the same
// happens-before edges, and each operation is a yield point.
type Chan[T any] struct {
	real chan T
	sim  *channel
}

// NewChan makes a channel of that capacity. The name appears in traces. r may be
// nil.
func NewChan[T any](r *Run, name string, capacity int) *Chan[T] {
	if r == nil {
		return &Chan[T]{real: make(chan T, capacity)}
	}
	return &Chan[T]{sim: &channel{r: r, obj: r.Object(name), slots: make([]slot, capacity)}}
}

// Send sends v, as c <- v does.
func (c *Chan[T]) Send(v T) {
	if c.sim == nil {
		c.real <- v
		return
	}
	c.sim.r.choose([]Case{Send(c, v, nil)})
}

// Recv receives a value, as v, ok := <-c does.
func (c *Chan[T]) Recv() (v T, ok bool) {
	if c.sim == nil {
		v, ok = <-c.real
		return v, ok
	}
	c.sim.r.choose([]Case{Recv(c, func(got T, more bool) { v, ok = got, more })})
	return v, ok
}

// Close closes the channel, as close(c) does.
func (c *Chan[T]) Close() {
	if c.sim == nil {
		close(c.real)
		return
	}
	c.sim.close()
}

// A Case is one case of [Select].
type Case struct {
	sim   *channel
	send  bool
	value any // to send
	then  func(v any, ok bool)
	real  reflect.SelectCase
}

// Recv is the case that receives from c. Select then calls then, which may be
// nil.
func Recv[T any](c *Chan[T], then func(v T, ok bool)) Case {
	return Case{sim: c.sim, real: reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c.real)},
		then: func(v any, ok bool) {
			if then != nil {
				t, _ := v.(T)
				then(t, ok)
			}
		}}
}

// Send is the case that sends v to c. Select then calls then, which may be nil.
func Send[T any](c *Chan[T], v T, then func()) Case {
	k := Case{sim: c.sim, send: true, value: v, then: func(any, bool) {
		if then != nil {
			then()
		}
	}}
	if c.sim == nil {
		k.real = reflect.SelectCase{Dir: reflect.SelectSend, Chan: reflect.ValueOf(c.real), Send: reflect.ValueOf(&v).Elem()}
	}
	return k
}

// Default is the case that Select takes if no other is ready.
func Default(then func()) Case {
	return Case{real: reflect.SelectCase{Dir: reflect.SelectDefault}, then: func(any, bool) {
		if then != nil {
			then()
		}
	}}
}

// Select waits until one of the cases can proceed, carries it out, calls its
// function and returns its index. If several can proceed, the run's seed chooses.
// The channels must belong to r.
func Select(r *Run, cases ...Case) int {
	if r != nil {
		return r.choose(cases)
	}
	var all []reflect.SelectCase
	for i := range cases {
		all = append(all, cases[i].real)
	}
	i, v, ok := reflect.Select(all)
	var got any
	if ok {
		got = v.Interface()
	}
	cases[i].then(got, ok)
	return i
}

// channel is a simulated channel. Its fields are used only in functions that are
// hidden from the race detector; the edges show it the order that a Go channel
// gives.
type channel struct {
	r       *Run
	obj     int32
	slots   []slot // the buffer, a ring
	head, n int
	closed  bool
	closing Edge // closing comes before a receive that finds the channel closed
	waits   [2]queue
}

// The queues of a channel.
const (
	receivers = iota
	senders
)

// slot is one place of the buffer. As in Go, its uses are ordered.
type slot struct {
	value any
	edge  Edge
}

// waiter is a case that waits in a queue.
type waiter struct {
	sel      *selection
	index    int
	value    any
	ok       bool
	next     *waiter
	to, from Edge // waiting comes before being served, and that before going on
}

// selection is one call of Select that waits.
type selection struct {
	task *Task
	gate Gate
	done *waiter // the case that was carried out
}

type queue struct{ first, last *waiter }

//go:norace
func (q *queue) push(w *waiter) {
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
}

// pop removes and returns the first waiter with a task that still waits, or nil.
//
//go:norace
func (q *queue) pop() *waiter {
	for q.first != nil {
		w := q.first
		if q.first = w.next; q.first == nil {
			q.last = nil
		}
		if w.sel.done == nil && w.sel.task.state != done {
			return w
		}
	}
	return nil
}

// serve lets the task of a waiter go on with that case.
//
//go:norace
func (c *channel) serve(w *waiter, v any, ok bool) {
	w.value, w.ok, w.sel.done = v, ok, w
	w.from.Release()
	c.r.Open(&w.sel.gate)
}

// trySend sends v if that is possible without waiting.
//
//go:norace
func (c *channel) trySend(v any) bool {
	if c.closed {
		panic("send on closed channel")
	}
	if w := c.waits[receivers].pop(); w != nil {
		w.to.Acquire()
		c.serve(w, v, true)
		return true
	}
	if c.n == len(c.slots) {
		return false
	}
	c.fill(v)
	return true
}

//go:norace
func (c *channel) fill(v any) {
	s := &c.slots[(c.head+c.n)%len(c.slots)]
	s.edge.Acquire()
	s.value = v
	s.edge.Release()
	c.n++
}

// tryRecv receives a value if that is possible without waiting.
//
//go:norace
func (c *channel) tryRecv() (v any, ok, ready bool) {
	if c.n > 0 {
		s := &c.slots[c.head]
		s.edge.Acquire()
		v, s.value = s.value, nil
		s.edge.Release()
		c.head = (c.head + 1) % len(c.slots)
		c.n--
		if w := c.waits[senders].pop(); w != nil {
			w.to.Acquire()
			c.fill(w.value)
			c.serve(w, nil, true)
		}
		return v, true, true
	}
	if w := c.waits[senders].pop(); w != nil {
		w.to.Acquire()
		v = w.value
		c.serve(w, nil, true)
		return v, true, true
	}
	if c.closed {
		c.closing.Acquire()
		return nil, false, true
	}
	return nil, false, false
}

//go:norace
func (c *channel) close() {
	c.r.yield(AtClose, c.obj)
	if c.r.ended() {
		return
	}
	if c.closed {
		panic("close of closed channel")
	}
	c.closed = true
	c.closing.Release()
	for q := range c.waits {
		for w := c.waits[q].pop(); w != nil; w = c.waits[q].pop() {
			w.to.Acquire()
			c.serve(w, nil, false)
		}
	}
}

// ready reports whether the case can proceed now.
//
//go:norace
func (k *Case) ready() bool {
	c := k.sim
	if k.send {
		return c.closed || c.n < len(c.slots) || c.waits[receivers].waiting()
	}
	return c.closed || c.n > 0 || c.waits[senders].waiting()
}

//go:norace
func (q *queue) waiting() bool {
	for w := q.first; w != nil; w = w.next {
		if w.sel.done == nil && w.sel.task.state != done {
			return true
		}
	}
	return false
}

// choose is Select in a run.
func (e *Run) choose(cases []Case) int {
	i, v, ok := e.await(cases)
	if i >= 0 {
		cases[i].then(v, ok)
	}
	return i
}

// await waits for one of the cases, carries it out and returns its index and the
// value received. After the end of the run it returns -1.
//
//go:norace
func (e *Run) await(cases []Case) (index int, v any, ok bool) {
	obj, otherwise := int32(0), -1
	for i := range cases {
		if cases[i].sim == nil {
			otherwise = i
		} else if obj == 0 {
			obj = cases[i].sim.obj
		}
	}
	kind := AtRead
	if len(cases) == 1 && cases[0].send {
		kind = AtWrite
	}
	e.yield(kind, obj)
	if e.ended() {
		return -1, nil, false
	}
	n := 0
	for i := range cases {
		if cases[i].sim != nil && cases[i].ready() {
			n++
		}
	}
	if n > 0 {
		n = e.draw(n)
		for i := range cases {
			k := &cases[i]
			if k.sim == nil || !k.ready() {
				continue
			}
			if n--; n >= 0 {
				continue
			}
			if k.send {
				k.sim.trySend(k.value)
				return i, nil, true
			}
			v, ok, _ = k.sim.tryRecv()
			return i, v, ok
		}
	}
	if otherwise >= 0 {
		return otherwise, nil, true
	}
	sel := &selection{task: e.Current()}
	for i := range cases {
		k := &cases[i]
		w := &waiter{sel: sel, index: i, value: k.value}
		w.to.Release()
		q := receivers
		if k.send {
			q = senders
		}
		k.sim.waits[q].push(w)
	}
	for sel.done == nil {
		e.Park(kind, &sel.gate, Forever)
		if e.ended() {
			return -1, nil, false
		}
		e.mustBeInTask()
	}
	w := sel.done
	w.from.Acquire()
	if cases[w.index].send && !w.ok {
		panic("send on closed channel")
	}
	return w.index, w.value, w.ok
}

// draw returns a number in [0, n) that follows from the seed and the point at
// which the current task is, so that it stays when other operations are deleted.
//
//go:norace
func (e *Run) draw(n int) int {
	if n == 1 {
		return 0
	}
	t := e.Current()
	return int(Mix(e.seed^t.at.Mix(t.key)) >> 33 % uint64(n))
}

// ended reports whether the run is over, so that deferred functions of its tasks
// must not wait any more.
//
//go:norace
func (e *Run) ended() bool { return e.mode == judging || e.mode == unwinding }

//go:norace
func (e *Run) mustBeInTask() {
	if !e.InTask() {
		panic("engine: only a task of the run may wait")
	}
}
