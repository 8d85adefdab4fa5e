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
