package network

import (
	"net/netip"
	"slices"
)

// Turns is a queue in which networks take turns. The values of one network leave it in the
// order in which they came, and after each one comes a value of the next network that has
// any. A network with many values therefore delays the value of another network by one
// value. The zero value is an empty queue. A caller must not use it concurrently.
type Turns[T any] struct {
	queues []*turnQueue[T] // none is empty; the next turn is that of the first
	of     map[netip.Prefix]*turnQueue[T]
}

type turnQueue[T any] struct {
	network netip.Prefix
	values  []T
}

// Len returns the number of networks that have values.
func (t *Turns[T]) Len() int { return len(t.queues) }

// Push puts v behind the values of network p.
func (t *Turns[T]) Push(p netip.Prefix, v T) {
	q := t.of[p]
	if q == nil {
		if t.of == nil {
			t.of = make(map[netip.Prefix]*turnQueue[T])
		}
		q = &turnQueue[T]{network: p}
		t.of[p] = q
		t.queues = append(t.queues, q)
	}
	q.values = append(q.values, v)
}

// Remove removes the first value of network p for which match is true. It returns whether
// there was one.
func (t *Turns[T]) Remove(p netip.Prefix, match func(T) bool) bool {
	q := t.of[p]
	if q == nil {
		return false
	}
	i := slices.IndexFunc(q.values, match)
	if i < 0 {
		return false
	}
	if q.values = slices.Delete(q.values, i, i+1); len(q.values) == 0 {
		delete(t.of, p)
		k := slices.Index(t.queues, q)
		t.queues = slices.Delete(t.queues, k, k+1)
	}
	return true
}

// Of returns the values of network p, the next one first. They are those of t: the caller
// may change them until the next call of Push or Pop.
func (t *Turns[T]) Of(p netip.Prefix) []T {
	if q := t.of[p]; q != nil {
		return q.values
	}
	return nil
}

// Next returns the value that Pop removes. Len must not be 0.
func (t *Turns[T]) Next() T { return t.queues[0].values[0] }

// Pop removes the value that is next, and passes the turn to the next network. Len
// must not be 0.
func (t *Turns[T]) Pop() T {
	q := t.queues[0]
	t.queues[0] = nil
	t.queues = t.queues[1:]
	v := q.values[0]
	clear(q.values[:1])
	if q.values = q.values[1:]; len(q.values) > 0 {
		t.queues = append(t.queues, q) // behind the others
	} else {
		delete(t.of, q.network)
	}
	if len(t.queues) == 0 {
		*t = Turns[T]{} // an idle queue holds no memory
	}
	return v
}
