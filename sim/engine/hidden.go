package engine

// Hidden is a variable of a world that several tasks use. One task runs at a time, and the race
// detector neither sees these uses nor takes them for an order between the tasks.
type Hidden[T any] struct{ v T }

// Get returns the value.
//
//go:norace
func (h *Hidden[T]) Get() T { return h.v }

// Set sets the value.
//
//go:norace
func (h *Hidden[T]) Set(v T) { h.v = v }
