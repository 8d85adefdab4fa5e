package relay

import "runtime"

// A Socket is one peer's connection below WebSocket, once the upgrade is through: bytes
// in both directions. No method waits.
//
// At any time at most one task calls TryRead, and at most one task calls TryWrite or
// CloseWrite. Any task may call Close, more than once.
//
// A Socket tells its Watcher when a call is worth repeating. Readiness is edge-triggered:
// the socket owes a call of Ready only after a TryRead that returned more false, or after
// a TryWrite that took less than all. A caller that stops reading in between, because it
// has no room, gets at most one more call, and none after that.
//
// A Socket has no deadlines. Its owner watches the clock and closes the socket when a
// peer takes too long.
type Socket interface {
	// Start names the watcher. It is called once, before every other method but
	// Close. Ready may be called from then on, before Start returns too.
	Start(w Watcher)

	// TryRead reads into p what has come; len(p) > 0. If more is true, another call may
	// bring more now. If more is false and err is nil, Ready(readable) is called once
	// another call may bring bytes or an error. n may be 0 in both cases. At the end
	// of the peer's bytes the error is io.EOF; n is 0 if err is not nil.
	TryRead(p []byte) (n int, more bool, err error)

	// TryWrite takes as much of p as goes now, perhaps nothing. If n < len(p) and err is
	// nil, Ready(writable) is called once another call may take more. The p of that
	// call begins with all the bytes that were not taken.
	TryWrite(p []byte) (n int, err error)

	// CloseWrite tells the peer that nothing more will come. Reading goes on. It is
	// called after everything has been taken.
	CloseWrite() error

	// Close ends both directions. Calls of Ready that are under way, or about to
	// begin, may still come; no others are owed. TryRead and TryWrite fail from then
	// on.
	Close() error
}

// A Watcher is the owner of a Socket.
type Watcher interface {
	// Ready says that TryRead (readable) or TryWrite (writable) may make progress.
	// It may be wrong, late or repeated, may come from several tasks at once, and
	// must not wait. t belongs to the task that calls.
	Ready(t *Turn, readable, writable bool)
}

// A Turn collects work that the steps of many connections leave for the end of their
// batch: the outboxes that they have filled leave in one write each, and the
// connections with more to do get another step after all others.
//
// Each task that calls Watcher.Ready has its own Turn: a poller, or a task that starts a
// single connection again. It calls Ready for each socket of a batch and then End. The
// zero value is ready for use.
type Turn struct {
	dirty []*outbox
	again []Watcher
	spare []Watcher // the array that again had in the batch before

	alone    bool // of a task that serves one connection
	messages int  // handed on since the outboxes were flushed
}

// flushMessages is how many messages a Turn lets steps hand on until it flushes. Many
// small ones for many peers wait for each other so long, and no longer.
const flushMessages = 512

// Again asks for a call of w.Ready(t, true, false) in the next batch.
func (t *Turn) Again(w Watcher) { t.again = append(t.again, w) }

// stepped is called after each step.
func (t *Turn) stepped() {
	if t.messages >= flushMessages {
		t.flush()
	}
}

func (t *Turn) flush() {
	t.messages = 0
	for i, o := range t.dirty {
		o.flush()
		t.dirty[i] = nil
	}
	t.dirty = t.dirty[:0]
}

// End flushes the outboxes that the batch has filled. It reports whether watchers have
// asked to be called again: the task then looks for new events without waiting for
// any, calls Ready for them, calls Repeat, and calls End.
func (t *Turn) End() (more bool) {
	for len(t.dirty) > 0 && len(t.again) > 0 { // until the batch is worth its writes
		t.Repeat()
	}
	t.flush()
	return len(t.again) > 0
}

// Finish ends the batch of a task that has no further events: it goes on until no
// watcher asks to be called again.
func (t *Turn) Finish() {
	for t.End() {
		runtime.Gosched()
		t.Repeat()
	}
}

// Repeat calls the watchers that have asked for it in the batches before this one.
func (t *Turn) Repeat() {
	now := t.again
	t.again, t.spare = t.spare[:0], nil
	for i, w := range now {
		now[i] = nil
		w.Ready(t, true, false)
	}
	t.spare = now[:0]
}
