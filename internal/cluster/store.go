package cluster

// Gate lets one task wait for an event. Wait returns when the gate is open, and
// closes it. Open opens it; opening an open gate changes nothing. The task that
// returns from Wait must check the condition that it waits for again.
type Gate interface {
	Wait()
	Open()
}
