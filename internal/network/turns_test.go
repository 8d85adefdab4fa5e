package network

import (
	"fmt"
	"slices"
	"testing"
)

func TestNetworksTakeTurns(t *testing.T) {
	one, other := Of(addr("192.0.2.1")).Widest(), Of(addr("192.0.2.2")).Widest()
	var q Turns[string]
	for i := range 4 {
		q.Push(one, fmt.Sprint("one ", i))
	}
	var got []string
	pop := func() {
		if next := q.Next(); next != q.Pop() {
			t.Errorf("Next is not the value that Pop removes")
		}
	}
	got = append(got, q.Next())
	pop()
	q.Push(other, "other 0")
	q.Push(other, "other 1")
	if of := q.Of(other); len(of) != 2 || of[1] != "other 1" || q.Len() != 2 {
		t.Errorf("the other network has %q, of %d networks", of, q.Len())
	}
	for q.Len() > 0 {
		got = append(got, q.Next())
		pop()
	}
	want := []string{"one 0", "one 1", "other 0", "one 2", "other 1", "one 3"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	if q.Of(one) != nil {
		t.Error("an empty queue has values")
	}
}

// A value that is removed leaves the order of the others, and its network leaves with its
// last value.
func TestTurnsForgetWhatIsRemoved(t *testing.T) {
	one, other := Of(addr("192.0.2.1")).Widest(), Of(addr("192.0.2.2")).Widest()
	var q Turns[string]
	remove := func(v string) bool { return q.Remove(one, func(x string) bool { return x == v }) }
	if remove("a") {
		t.Error("a value is removed from an empty queue")
	}
	for _, v := range []string{"a", "b", "c"} {
		q.Push(one, v)
	}
	q.Push(other, "x")
	if !remove("b") || remove("b") || !slices.Equal(q.Of(one), []string{"a", "c"}) {
		t.Errorf("the network has %q; want a and c", q.Of(one))
	}
	if !remove("a") || !remove("c") || q.Len() != 1 || q.Of(one) != nil || q.Pop() != "x" || q.Len() != 0 {
		t.Errorf("%d networks are left; want none behind x", q.Len())
	}
}
