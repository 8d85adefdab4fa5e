package relay

import (
	"cmp"
	"slices"
)

// sortedByJoinOrder returns the keys of m by when they arrived.
func sortedByJoinOrder[T comparable](m map[T]uint64) []T { return joinOrderOf(m).sortedByJoinOrder() }

// joinOrder are some that arrived, each with its turn.
type joinOrder[T any] []joinedAt[T]

type joinedAt[T any] struct {
	who   T
	order uint64
}

// joinOrderOf copies m: what is to be sorted while nobody holds its lock.
func joinOrderOf[T comparable](m map[T]uint64) joinOrder[T] {
	as := make(joinOrder[T], 0, len(m))
	for t, turn := range m {
		as = append(as, joinedAt[T]{t, turn})
	}
	return as
}

// sortedByJoinOrder sorts as and returns who they are.
func (as joinOrder[T]) sortedByJoinOrder() []T {
	slices.SortFunc(as, func(a, b joinedAt[T]) int { return cmp.Compare(a.order, b.order) })
	if len(as) == 0 {
		return nil
	}
	ts := make([]T, len(as))
	for i, a := range as {
		ts[i] = a.who
	}
	return ts
}
