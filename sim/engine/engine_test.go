package engine

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// scriptedWorld is a world in which each actor runs a function of the test.
type scriptedWorld struct {
	scripts map[string]func(e *Run)
	e       *Run
}

func (*scriptedWorld) Name() string               { return "scripted" }
func (*scriptedWorld) Plan(*Rand, bool) *Plan     { return nil }
func (*scriptedWorld) Format(Op) string           { return "act" }
func (*scriptedWorld) Parse([]string) (Op, error) { return Op{}, nil }
func (*scriptedWorld) CoverageGoals() []string    { return nil }
func (*scriptedWorld) Invariants() []string       { return nil }
func (w *scriptedWorld) Start(e *Run, _ *Plan) Instance {
	w.e = e
	return w
}
func (w *scriptedWorld) Do(t *Task, _ Op)     { w.scripts[t.Name](w.e) }
func (*scriptedWorld) Step()                  {}
func (*scriptedWorld) Unlocking(*Task, *Lock) {}
func (*scriptedWorld) Contended(*Task, *Lock) {}
func (*scriptedWorld) Ended(*Task)            {}
func (*scriptedWorld) Idle() bool             { return true }
func (*scriptedWorld) Final()                 {}

// runScripted runs the actors' functions, in this order unless lines change it.
func runScripted(roles map[string]func(*Run), order []string, lines ...Line) *Result {
	w := &scriptedWorld{scripts: roles}
	r := &Plan{World: w}
	for _, a := range order {
		r.Lines = append(r.Lines, Line{Op: Op{Actor: a, Label: 1}})
	}
	r.Lines = append(r.Lines, lines...)
	x := Runner{World: w, Trace: true, Plain: true} // the tests share variables
	return x.Replay(r)
}

func TestDeadlockNamesWhoHoldsWhat(t *testing.T) {
	var left, right sync.Locker
	roles := map[string]func(*Run){
		"a": func(e *Run) {
			left, right = e.NewLock("left"), e.NewLock("right")
			left.Lock()
			right.Lock()
		},
		"b": func(*Run) { right.Lock(); left.Lock() },
	}
	res := runScripted(roles, []string{"a", "b"}, Line{At: "a.1@locked1", Run: "b"})
	if res.Failure == nil || res.Failure.Invariant != "deadlock" {
		t.Fatalf("got %v; want a deadlock", res.Failure)
	}
	for _, want := range []string{"a wants right held by b", "b wants left held by a"} {
		if !strings.Contains(res.Failure.Detail, want) {
			t.Errorf("detail %q; want it to say %q", res.Failure.Detail, want)
		}
	}
}

func TestPanicIsAFailureOfItsTask(t *testing.T) {
	res := runScripted(map[string]func(*Run){"a": func(*Run) { panic("oh") }}, []string{"a"})
	if res.Failure == nil || res.Failure.Invariant != "panic" || !strings.HasPrefix(res.Failure.Detail, "oh\n") || res.Failure.Task != "a" {
		t.Errorf("got %v; want a panic of a", res.Failure)
	}
}

func TestRunWithoutEndIsCutOff(t *testing.T) {
	res := runScripted(map[string]func(*Run){"a": func(e *Run) {
		for {
			e.Yield(AtPoint, 0)
		}
	}}, []string{"a"})
	if res.Failure == nil || res.Failure.Invariant != "terminates" {
		t.Errorf("got %v; want it not to terminate", res.Failure)
	}
}

func TestActorThatWaitsForNothingIsReported(t *testing.T) {
	res := runScripted(map[string]func(*Run){"a": func(e *Run) { e.Park(AtWait, new(Gate), -1) }}, []string{"a"})
	if res.Failure == nil || res.Failure.Invariant != "ends" {
		t.Errorf("got %v; want an actor that never ends", res.Failure)
	}
}

func TestUnlockOfAnothersLock(t *testing.T) {
	var l sync.Locker
	res := runScripted(map[string]func(*Run){
		"a": func(e *Run) { l = e.NewLock("l"); l.Lock() },
		"b": func(*Run) { l.Unlock() },
	}, []string{"a", "b"})
	if res.Failure == nil || res.Failure.Invariant != "locks" {
		t.Errorf("got %v; want a wrong unlock", res.Failure)
	}
}

func TestTimers(t *testing.T) {
	var got []string
	say := func(s string) { got = append(got, s) }
	res := runScripted(map[string]func(*Run){
		"a": func(e *Run) {
			late := e.AfterFunc(2*time.Second, func() { say("late") })
			e.AfterFunc(time.Second, func() { say("first at " + time.Duration(e.Now()).String()) })
			stopped := e.AfterFunc(time.Second, func() { say("stopped runs") })
			if !stopped.Stop() || stopped.Stop() {
				say("Stop is wrong about an armed timer")
			}
			if n := e.Armed(); n != 2 {
				say("armed is wrong")
			}
			e.Next()
			e.Advance(500 * time.Millisecond)
			say("at " + time.Duration(e.Now()).String())
			e.Next()
			if late.Stop() {
				say("Stop says it was in time")
			}
			say("fired and not yet run")
		},
	}, []string{"a"})
	if res.Failure != nil {
		t.Fatal(res.Failure)
	}
	want := "at 1.5s,fired and not yet run,first at 2s,late"
	if s := strings.Join(got, ","); s != want {
		t.Errorf("got %s; want %s", s, want)
	}
}

func TestParkedTaskGoesOnWhenTheGateOpensOrTimeIsUp(t *testing.T) {
	var g Gate
	open := false
	var got []string
	res := runScripted(map[string]func(*Run){
		"a": func(e *Run) {
			for !open {
				e.Park(AtRead, &g, -1)
			}
			got = append(got, "a reads")
			e.Park(AtRead, &g, e.Now()+int64(time.Second))
			got = append(got, "a gives up at "+time.Duration(e.Now()).String())
		},
		"b": func(e *Run) {
			got = append(got, "b writes")
			open = true
			e.Open(&g)
		},
		"c": func(e *Run) {
			e.Sleep(3 * time.Second)
			got = append(got, "c wakes at "+time.Duration(e.Now()).String())
		},
	}, []string{"a", "b", "c"})
	if res.Failure != nil {
		t.Fatal(res.Failure)
	}
	want := "b writes,a reads,a gives up at 1s,c wakes at 3s"
	if s := strings.Join(got, ","); s != want {
		t.Errorf("got %s; want %s", s, want)
	}
}

func TestTasksStartedByTasksHaveNamesThatLast(t *testing.T) {
	var got []string
	role := map[string]func(*Run){
		"a": func(e *Run) {
			e.Go("child", func() {
				e.Go("grandchild", func() { got = append(got, e.Current().Title()) })
				got = append(got, e.Current().Title())
			})
		},
		"b": func(e *Run) { got = append(got, "b") },
	}
	if res := runScripted(role, []string{"a", "b"}); res.Failure != nil {
		t.Fatal(res.Failure)
	}
	if s, want := strings.Join(got, " "), "a.1/child1 a.1/child1/grandchild1 b"; s != want {
		t.Errorf("got %s; want %s", s, want)
	}
	for _, name := range []string{"a.1/child1", "a.1/go1"} { // the second is its name in older files
		got = nil
		if res := runScripted(role, []string{"a", "b"}, Line{Begins: name}); res.Failure != nil {
			t.Fatal(res.Failure)
		}
		if s, want := strings.Join(got, " "), "b a.1/child1 a.1/child1/grandchild1"; s != want {
			t.Errorf("%s listed last: got %s; want %s", name, s, want)
		}
	}
}

// What a world starts while it is built has a name of its own, too.
func TestTasksStartedByTheWorldHaveNames(t *testing.T) {
	var got []string
	e := newEngine(newBuffers(1000), newReplayer(&Plan{}))
	w := &scriptedWorld{scripts: map[string]func(*Run){"a": func(e *Run) { e.Advance(time.Second) }}}
	say := func() { got = append(got, e.Current().Title()) }
	e.Go("first", say)
	e.Go("second", say)
	e.AfterFunc(time.Second, say)
	e.AfterFunc(time.Second, say)
	e.plain = true
	e.run(w, &Plan{Lines: []Line{{Op: Op{Actor: "a", Label: 1}}}})
	failure := e.failure
	e.unwind()
	if failure != nil {
		t.Fatal(failure)
	}
	if s, want := strings.Join(got, " "), "idle/first1 idle/second1 idle/arm1 idle/arm2"; s != want {
		t.Errorf("got %s; want %s", s, want)
	}
}

func BenchmarkStep(b *testing.B) {
	spin := func(e *Run) {
		for range 2000 {
			e.Yield(AtPoint, 0)
		}
	}
	roles := map[string]func(*Run){"a": spin, "b": spin, "c": spin, "d": spin}
	r := &Plan{}
	for _, a := range []string{"a", "b", "c", "d"} {
		r.Lines = append(r.Lines, Line{Op: Op{Actor: a, Label: 1}})
	}
	for _, s := range Strategies {
		b.Run(s, func(b *testing.B) {
			x := Runner{World: &scriptedWorld{scripts: roles}}
			steps := 0
			for steps < b.N {
				p, err := newPicker(s, NewRand(uint64(steps)), 1000)
				if err != nil {
					b.Fatal(err)
				}
				steps += x.run(r, p).Steps
			}
			b.ReportMetric(float64(steps)/b.Elapsed().Seconds()/1e6, "Msteps/s")
		})
	}
}
