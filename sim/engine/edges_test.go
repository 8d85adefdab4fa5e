package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// edges are two tasks that use one variable, with and without the order that a
// primitive of Go gives.
var edges = map[string]func(r *Run, v *int){
	"ordered: one mutex": func(r *Run, v *int) {
		mu := NewMutex(r, "mu")
		both(r, func() { mu.Lock(); *v++; mu.Unlock() }, func() { mu.Lock(); *v++; mu.Unlock() })
	},
	"racy: two mutexes": func(r *Run, v *int) {
		a, b := NewMutex(r, "a"), NewMutex(r, "b")
		both(r, func() { a.Lock(); *v++; a.Unlock() }, func() { b.Lock(); *v++; b.Unlock() })
	},
	"ordered: a reader and a writer": func(r *Run, v *int) {
		mu := NewRWMutex(r, "mu")
		both(r, func() { mu.RLock(); _ = *v; mu.RUnlock() }, func() { mu.Lock(); *v++; mu.Unlock() })
	},
	"racy: two readers that write": func(r *Run, v *int) {
		mu := NewRWMutex(r, "mu")
		both(r, func() { mu.RLock(); *v++; mu.RUnlock() }, func() { mu.RLock(); *v++; mu.RUnlock() })
	},
	"ordered: a send and its receive": func(r *Run, v *int) {
		c := NewChan[int](r, "c", 3)
		both(r, func() { *v++; c.Send(1) }, func() { c.Recv(); *v++ })
	},
	"racy: a send into a buffer and a write after it": func(r *Run, v *int) {
		c := NewChan[int](r, "c", 1)
		both(r, func() { c.Send(1); *v++ }, func() { c.Recv(); *v++ })
	},
	"ordered: a receive and the end of an unbuffered send": func(r *Run, v *int) {
		c := NewChan[int](r, "c", 0)
		both(r, func() { c.Send(1); *v++ }, func() { *v++; c.Recv() })
	},
	"ordered: a receive and the send that needs its place": func(r *Run, v *int) {
		c := NewChan[int](r, "c", 1)
		both(r, func() { c.Send(1); c.Send(2); *v++ }, func() { *v++; c.Recv() })
	},
	"ordered: a close and a receive that sees it": func(r *Run, v *int) {
		c := NewChan[int](r, "c", 0)
		both(r, func() { *v++; c.Close() }, func() { c.Recv(); *v++ })
	},
	"ordered: select, either way": func(r *Run, v *int) {
		c, d := NewChan[int](r, "c", 0), NewChan[int](r, "d", 0)
		both(r, func() { *v++; Select(r, Send(c, 1, nil), Recv(d, nil)) }, func() { Select(r, Recv(c, nil), Recv(d, nil)); *v++ })
	},
	"ordered: done and wait": func(r *Run, v *int) {
		g := NewWaitGroup(r)
		g.Go("add", func() { *v++ })
		g.Wait()
		*v++
	},
	"racy: a wait group without a wait": func(r *Run, v *int) {
		g := NewWaitGroup(r)
		g.Go("add", func() { *v++ })
		*v++
	},
	"ordered: put and get": func(r *Run, v *int) {
		p := NewPool(r, "p", func() *int { return nil }, nil)
		both(r, func() { *v++; p.Put(v) }, func() {
			for p.Get() == nil {
				r.Sleep(1)
			}
			*v++
		})
	},
	"racy: a use after put": func(r *Run, v *int) {
		p := NewPool(r, "p", func() *int { return nil }, func(v *int) { *v = 7 })
		both(r, func() { p.Put(v); *v++ }, func() {
			for p.Get() == nil {
				r.Sleep(1)
			}
			*v++
		})
	},
	"ordered: a message and its receive": func(r *Run, v *int) {
		n := r.NewNetwork(Link{})
		a, _ := n.Listen("a")
		b, _ := n.Listen("b")
		both(r, func() { *v++; a.Send("b", nil) }, func() { _, _, _ = b.Receive(); *v++ })
	},
	"racy: two senders of messages": func(r *Run, v *int) {
		n := r.NewNetwork(Link{})
		a, _ := n.Listen("a")
		b, _ := n.Listen("b")
		both(r, func() { *v++; a.Send("c", nil) }, func() { b.Send("c", nil); *v++ })
	},
	"ordered: bytes and their read": func(r *Run, v *int) {
		n := r.NewNetwork(Link{})
		a, _ := n.Listen("a")
		b, _ := n.Listen("b")
		both(r, func() { c, _ := a.Dial("b"); *v++; _, _ = c.Write([]byte{1}) },
			func() { c, _ := b.Accept(); _, _ = c.Read(make([]byte, 1)); *v++ })
	},
	"ordered: arming a timer and its body": func(r *Run, v *int) {
		*v++
		r.AfterFunc(time.Second, func() { *v++ })
	},
	"racy: a timer and what follows": func(r *Run, v *int) {
		r.AfterFunc(time.Second, func() { *v++ })
		r.Sleep(time.Second)
		*v++
	},
}

func both(r *Run, f, g func()) {
	r.Go("f", f)
	r.Go("g", g)
}

func showEdges() {
	for name, f := range edges {
		seen := 0
		for seed := range 60 {
			x := Runner{World: FuncWorld(name, func(r *Run) { f(r, new(int)) })}
			res, err := x.Seed(Seed(fmt.Sprint(seed)))
			if err != nil {
				panic(err)
			}
			if res.Races > 0 {
				seen++
			} else if res.Failure != nil {
				panic(res.Failure)
			}
		}
		fmt.Println(seen, name)
	}
}

// The detector sees the order that the primitives of Go give, and no other.
func TestThePrimitivesGiveTheOrderOfGoAndNoOther(t *testing.T) {
	if !RaceBuild {
		t.Skip("needs the race detector")
	}
	lines := strings.Split(strings.TrimSpace(runChild(t, "edges")), "\n")
	slices.Sort(lines)
	if len(lines) != len(edges) {
		t.Fatalf("%d measurements; want %d", len(lines), len(edges))
	}
	for _, l := range lines {
		seen, name, _ := strings.Cut(l, " ")
		if racy := strings.HasPrefix(name, "racy"); racy == (seen == "0") {
			t.Errorf("%s: races in %s of 60 seeds", name, seen)
		}
	}
}
