package lifecycle

import (
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Reloads carries out requests to reload the configuration, one at a time. Requests that
// come while one is carried out are one further request: the last Read begins after the
// last Request. All methods may be called by any task.
type Reloads[Plan any] struct {
	rt     relay.Runtime
	begins func() (done func())
	read   func() Plan
	apply  func(Plan)

	mu        sync.Locker // guards the rest, and is held while a plan is applied
	requested bool
	running   bool // the task that carries out requests has not ended
	stopped   bool
}

// NewReloads returns Reloads that read a plan and then apply it. read may wait for a file.
// apply must not wait. begins is called before both, and the function that it returns
// after both, unless Stop was called meanwhile.
func NewReloads[Plan any](rt relay.Runtime, begins func() (done func()), read func() Plan, apply func(Plan)) *Reloads[Plan] {
	rt = rt.WithDefaults()
	return &Reloads[Plan]{rt: rt, begins: begins, read: read, apply: apply, mu: rt.NewLock("reloads")}
}

// Request asks for a reload. It returns false if Stop has been called.
func (r *Reloads[Plan]) Request() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.requested = true
	if !r.running {
		r.running = true
		r.rt.Go("reload", r.run)
	}
	return true
}

// Stop ends the reloads. When it has returned, no reload begins or is applied. It does not
// wait for a reload that reads.
func (r *Reloads[Plan]) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// run carries out requests until there are no more.
func (r *Reloads[Plan]) run() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.requested && !r.stopped {
		r.requested = false
		done := r.begins()
		r.mu.Unlock()
		plan := r.read()
		r.mu.Lock()
		if r.stopped {
			break
		}
		r.apply(plan)
		done()
	}
	r.running = false
}
