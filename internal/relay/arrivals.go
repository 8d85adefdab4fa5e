package relay

import (
	"cmp"
	"slices"
)

// inOrder returns the keys of m by when they arrived.
func inOrder[T comparable](m map[T]uint64) []T { return arrivalsOf(m).inOrder() }

// arrivals are some that arrived, each with its turn.
type arrivals[T any] []arrival[T]

type arrival[T any] struct {
	who  T
	turn uint64
}

// arrivalsOf copies m: what is to be sorted while nobody holds its lock.
func arrivalsOf[T comparable](m map[T]uint64) arrivals[T] {
	as := make(arrivals[T], 0, len(m))
	for t, turn := range m {
		as = append(as, arrival[T]{t, turn})
	}
	return as
}

// inOrder sorts as and returns who they are.
func (as arrivals[T]) inOrder() []T {
	slices.SortFunc(as, func(a, b arrival[T]) int { return cmp.Compare(a.turn, b.turn) })
	if len(as) == 0 {
		return nil
	}
	ts := make([]T, len(as))
	for i, a := range as {
		ts[i] = a.who
	}
	return ts
}
