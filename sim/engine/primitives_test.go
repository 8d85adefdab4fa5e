package engine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// explore runs f under so many seeds and returns the invariants that broke, with the
// number of seeds that broke each.
func explore(t *testing.T, seeds int, f func(*Run)) map[string]int {
	t.Helper()
	x := Runner{World: FuncWorld("test", f)}
	broken := map[string]int{}
	for n := range seeds {
		res, err := x.Seed(Seed(fmt.Sprint(n + 1)))
		if err != nil {
			t.Fatal(err)
		}
		if res.Failure != nil {
			broken[res.Failure.Invariant]++
			if broken["first"] == 0 {
				broken["first"]++
				t.Log(res.Failure)
			}
		}
	}
	return broken
}

func holds(t *testing.T, f func(*Run)) {
	t.Helper()
	for invariant, n := range explore(t, 200, f) {
		t.Errorf("%s: broken in %d of 200 seeds; want none", invariant, n)
	}
}

func breaks(t *testing.T, invariant string, f func(*Run)) {
	t.Helper()
	if explore(t, 200, f)[invariant] == 0 {
		t.Errorf("%s: broken in none of 200 seeds; want some", invariant)
	}
}

func TestAMutexExcludes(t *testing.T) {
	count := func(lock bool) func(*Run) {
		return func(r *Run) {
			mu, cell, all := NewMutex(r, "mu"), NewChan[int](r, "cell", 1), NewWaitGroup(r)
			cell.Send(0)
			for range 3 {
				all.Go("add", func() {
					if lock {
						mu.Lock()
						defer mu.Unlock()
					}
					n, _ := cell.Recv()
					cell.Send(n)
					r.Sleep(time.Second)
					n, _ = cell.Recv()
					r.Intn(2)
					cell.Send(n + 1)
				})
			}
			all.Wait()
			if n, _ := cell.Recv(); n != 3 {
				r.Fail("count", "%d", n)
			}
		}
	}
	holds(t, count(true))
	torn := func(r *Run) { // read and write are two operations
		cell, all := NewChan[int](r, "cell", 1), NewWaitGroup(r)
		value := 0
		get := func() int { cell.Send(1); defer cell.Recv(); return value }
		put := func(n int) { cell.Send(1); defer cell.Recv(); value = n }
		for range 2 {
			all.Go("add", func() { put(get() + 1) })
		}
		all.Wait()
		if n := get(); n != 2 {
			r.Fail("count", "%d", n)
		}
	}
	breaks(t, "count", torn)
}

func TestAnRWMutexLetsReadersInTogetherAndWritersAlone(t *testing.T) {
	together := 0
	holds(t, func(r *Run) {
		mu, state, all := NewRWMutex(r, "mu"), NewMutex(r, "state"), NewWaitGroup(r)
		readers, writers := 0, 0
		change := func(what *int, by int) {
			state.Lock()
			defer state.Unlock()
			*what += by
			if writers > 1 || writers == 1 && readers > 0 {
				r.Fail("alone", "%d writers, %d readers", writers, readers)
			}
			if readers == 2 {
				together++
			}
		}
		for range 2 {
			all.Go("read", func() {
				mu.RLock()
				defer mu.RUnlock()
				change(&readers, 1)
				change(&readers, -1)
			})
			all.Go("write", func() {
				mu.Lock()
				defer mu.Unlock()
				change(&writers, 1)
				change(&writers, -1)
			})
		}
		all.Wait()
	})
	if together == 0 {
		t.Error("two readers never held the lock together")
	}
	breaks(t, "ends", func(r *Run) { // a writer that waits keeps the second reader out
		mu := NewRWMutex(r, "mu")
		r.Go("write", func() {
			mu.Lock()
			defer mu.Unlock()
		})
		mu.RLock()
		defer mu.RUnlock()
		mu.RLock()
		defer mu.RUnlock()
		r.Yield(AtPoint, 0)
	})
	breaks(t, "locks", func(r *Run) { NewRWMutex(r, "mu").RUnlock() })
	breaks(t, "locks", func(r *Run) { NewRWMutex(r, "mu").Unlock() })
}

func TestAChannelIsOneOfGo(t *testing.T) {
	for _, capacity := range []int{0, 1, 3} {
		holds(t, func(r *Run) {
			c, all := NewChan[int](r, "c", capacity), NewWaitGroup(r)
			for p := range 2 {
				all.Go("send", func() {
					for i := range 4 {
						c.Send(10*p + i)
					}
				})
			}
			r.Go("close", func() { all.Wait(); c.Close() })
			last, n := [2]int{-1, -1}, 0
			for v, ok := c.Recv(); ok; v, ok = c.Recv() {
				if v%10 <= last[v/10] {
					r.Fail("order", "%d after %d", v, last[v/10])
				}
				last[v/10] = v % 10
				n++
			}
			if n != 8 {
				r.Fail("count", "%d values received; want 8", n)
			}
			if v, ok := c.Recv(); v != 0 || ok {
				r.Fail("closed", "received %d %t of a closed channel", v, ok)
			}
		})
	}
	breaks(t, "panic", func(r *Run) { c := NewChan[int](r, "c", 1); c.Close(); c.Send(1) })
	breaks(t, "panic", func(r *Run) { c := NewChan[int](r, "c", 1); c.Close(); c.Close() })
	breaks(t, "ends", func(r *Run) { NewChan[int](r, "c", 0).Send(1) })
	breaks(t, "panic", func(r *Run) { // one that waits to send
		c := NewChan[int](r, "c", 0)
		r.Go("close", c.Close)
		c.Send(1)
	})
}

func TestAnUnbufferedSendEndsAfterItsReceiveHasBegun(t *testing.T) {
	holds(t, func(r *Run) {
		c, mu := NewChan[int](r, "c", 0), NewMutex(r, "mu")
		begun := false
		r.Go("receive", func() {
			mu.Lock()
			begun = true
			mu.Unlock()
			c.Recv()
		})
		c.Send(1)
		mu.Lock()
		defer mu.Unlock()
		if !begun {
			r.Fail("rendezvous", "sent without a receiver")
		}
	})
}

func TestSelectTakesEveryCaseThatIsReady(t *testing.T) {
	var taken [4]int
	holds(t, func(r *Run) {
		a, b, c := NewChan[int](r, "a", 1), NewChan[int](r, "b", 1), NewChan[int](r, "c", 0)
		a.Send(1)
		got := 0
		switch i := Select(r, Recv(a, func(v int, ok bool) { got = v }), Send(b, 2, func() { got = 1 }), Recv(c, nil)); i {
		case 0, 1:
			taken[i]++
		default:
			r.Fail("select", "case %d was not ready", i)
		}
		if got != 1 {
			r.Fail("select", "its function was not called")
		}
		if i := Select(r, Recv(c, nil), Send(c, 3, nil), Default(nil)); i != 2 {
			r.Fail("select", "case %d; want the default", i)
		}
		taken[2]++
		// One that waits takes exactly one case.
		d := NewChan[int](r, "d", 0)
		r.Go("c", func() { c.Send(7) })
		r.Go("d", func() { d.Send(8) })
		Select(r, Recv(c, nil), Recv(d, nil))
		if v, ok := 0, false; true {
			Select(r, Recv(c, func(n int, more bool) { v, ok = n, more }), Recv(d, func(n int, more bool) { v, ok = n, more }))
			if !ok || v != 7 && v != 8 {
				r.Fail("select", "the second got %d %t", v, ok)
			}
		}
		taken[3]++
	})
	for i, n := range taken {
		if n == 0 {
			t.Errorf("case %d was never taken", i)
		}
	}
}

func TestTimersSleepAndTimeouts(t *testing.T) {
	holds(t, func(r *Run) {
		c := NewChan[string](r, "c", 1)
		timer := r.AfterFunc(time.Second, func() { c.Send("fired") })
		r.Sleep(500 * time.Millisecond)
		steps := r.Steps()
		if !timer.Stop() || timer.Stop() || r.Steps() != steps+2 {
			r.Fail("timer", "Stop is wrong about a timer that is armed, or one that is stopped, or no yield point")
		}
		start := r.Time()
		if i := Select(r, Recv(c, nil), Recv(r.After(3*time.Second), nil)); i != 1 || r.Time().Sub(start) != 3*time.Second {
			r.Fail("timer", "case %d after %v", i, r.Time().Sub(start))
		}
	})
}

func TestAPoolGivesBackTheLastValuePoisoned(t *testing.T) {
	type buffer [4]byte
	made := 0
	holds(t, func(r *Run) {
		made = 0
		p := NewPool(r, "buffers", func() *buffer { made++; return new(buffer) }, func(b *buffer) { *b = buffer{9, 9, 9, 9} })
		a, b := p.Get(), p.Get()
		p.Put(a)
		p.Put(b)
		if got := p.Get(); got != b || got[0] != 9 {
			r.Fail("pool", "Get returned another value than the last one put, or one that is not poisoned: %v", got)
		}
		if p.Get() != a || made != 2 {
			r.Fail("pool", "%d values were made; want 2", made)
		}
	})
	breaks(t, "use after put", func(r *Run) {
		p := NewPool(r, "buffers", func() *buffer { return new(buffer) }, func(b *buffer) { *b = buffer{9, 9, 9, 9} })
		b := p.Get()
		b[0] = 1
		p.Put(b)
		if b[0] != 1 {
			r.Fail("use after put", "%v", b)
		}
	})
}

func TestRandomNumbersFollowFromTheSeed(t *testing.T) {
	drawn := func(seed Seed) (got uint64) {
		x := Runner{World: FuncWorld("test", func(r *Run) { got = r.Uint64() })}
		if _, err := x.Seed(seed); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if a, b, c := drawn("1"), drawn("1"), drawn("2"); a != b || a == c {
		t.Errorf("seed 1 drew %d and %d, seed 2 %d", a, b, c)
	}
}

// Without a run the primitives are those of Go.
func TestWithoutARunEverythingIsReal(t *testing.T) {
	var r *Run
	c, done, all := NewChan[int](r, "c", 1), NewChan[bool](r, "done", 0), NewWaitGroup(r)
	mu, rw := NewMutex(r, "mu"), NewRWMutex(r, "rw")
	pool := NewPool(r, "p", func() int { return 7 }, nil)
	n := 0
	for range 4 {
		all.Go("add", func() {
			rw.RLock()
			defer rw.RUnlock()
			mu.Lock()
			defer mu.Unlock()
			n++
		})
	}
	all.Wait()
	rw.Lock()
	defer rw.Unlock()
	if n != 4 {
		t.Errorf("counted %d; want 4", n)
	}
	if i := Select(r, Recv(c, nil), Default(nil)); i != 1 {
		t.Errorf("case %d; want the default", i)
	}
	if i := Select(r, Send(c, 5, nil), Recv(done, nil)); i != 0 {
		t.Errorf("case %d; want to send", i)
	}
	got := 0
	Select(r, Recv(c, func(v int, ok bool) { got = v }))
	if got != 5 {
		t.Errorf("received %d; want 5", got)
	}
	r.AfterFunc(time.Millisecond, func() { done.Close() })
	if _, ok := done.Recv(); ok {
		t.Error("received of a closed channel")
	}
	pool.Put(pool.Get())
	if r.Intn(3) >= 3 || r.Time().Before(Epoch.AddDate(-10, 0, 0)) {
		t.Error("random numbers or time are wrong")
	}
	r.Sleep(time.Millisecond)
	if !r.AfterFunc(time.Hour, func() {}).Stop() {
		t.Error("a timer was not armed")
	}
}

func TestMessagesOfALink(t *testing.T) {
	lost, delivered := 0, 0
	holds(t, func(r *Run) {
		n := r.NewNetwork(Link{Latency: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Rate: 1000, Loss: 4})
		a, _ := n.Listen("a")
		b, _ := n.Listen("b")
		if _, err := n.Listen("a"); !errors.Is(err, ErrInUse) {
			r.Fail("listen", "twice: %v", err)
		}
		for i := range 8 {
			a.Send("b", []byte{byte(i), 99: 0})
		}
		last, end := -1, r.Time().Add(time.Minute)
		for {
			from, data, err := b.ReceiveUntil(end)
			if err != nil {
				break
			}
			// 100 bytes take 100 ms at 1,000 bytes a second.
			earliest := time.Duration(data[0]+1)*100*time.Millisecond + 10*time.Millisecond
			at := r.Time().Sub(Epoch)
			if from != "a" || int(data[0]) <= last || at < earliest || at > earliest+5*time.Millisecond {
				r.Fail("link", "message %d of %s after %d, at %v; want it at %v or within 5 ms", data[0], from, last, at, earliest)
			}
			last = int(data[0])
			delivered++
		}
		lost += 8
	})
	if lost -= delivered; lost < 100 || lost > 1000 {
		t.Errorf("%d of 1600 messages are lost; want about a quarter", lost)
	}
}

func TestAPartitionLosesMessagesAndHoldsBytes(t *testing.T) {
	holds(t, func(r *Run) {
		n := r.NewNetwork(Link{Latency: time.Millisecond, Loss: 3})
		n.SetLink("a", "b", Link{Latency: time.Millisecond})
		a, _ := n.Listen("a")
		b, _ := n.Listen("b")
		r.Go("serve", func() {
			c, err := b.Accept()
			if err != nil {
				r.Fail("accept", "%v", err)
			}
			_, _ = io.Copy(c, c)
			c.Close()
		})
		c, err := a.Dial("b")
		if err != nil {
			r.Fail("dial", "%v", err)
		}
		n.Partition("a", "b")
		a.Send("b", []byte("lost"))
		if _, err := c.Write([]byte("kept")); err != nil {
			r.Fail("write", "%v", err)
		}
		_ = c.SetReadDeadline(r.Time().Add(time.Second))
		if _, err := c.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
			r.Fail("partition", "read across it: %v", err)
		}
		if _, err := a.Dial("b"); err == nil {
			r.Fail("partition", "dialled across it")
		}
		_ = c.SetDeadline(time.Time{})
		n.Heal("a", "b")
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "kept" {
			r.Fail("heal", "read %q, %v", got, err)
		}
		a.Send("b", []byte("on its way"))
		n.Partition("a", "b")
		r.Sleep(time.Millisecond)
		if _, _, err := b.ReceiveUntil(r.Time().Add(time.Second)); !errors.Is(err, os.ErrDeadlineExceeded) {
			r.Fail("partition", "a message crossed it: %v", err)
		}
		n.Heal("a", "b")
		c.Close()
	})
}

// A pipe with a rate delivers a long write in parts.
func TestAPipeWithARate(t *testing.T) {
	holds(t, func(r *Run) {
		p := r.NewPipe(0, 0, NewRand(1))
		p.SetRate(8000)
		if n, err := p.Put(make([]byte, 2500), 2500); n != 2500 || err != nil {
			r.Fail("put", "%d, %v", n, err)
		}
		for _, want := range []int{0, 1000, 1000, 500} {
			n, _, err := p.Take(make([]byte, 2500))
			if n != want || err != nil {
				r.Fail("rate", "%d bytes and error %v at %v; want %d bytes", n, err, r.Time().Sub(Epoch), want)
			}
			r.Sleep(time.Second / 8)
		}
	})
}

func TestACrashEndsTasksTimersAndConnections(t *testing.T) {
	holds(t, func(r *Run) {
		n := r.NewNetwork(Link{})
		client, _ := n.Listen("client")
		p, log := r.NewProcess("server"), NewChan[string](r, "log", 100)
		serve := func() {
			l, err := n.Listen("server")
			if err != nil {
				r.Fail("listen", "after the crash the address is still in use: %v", err)
			}
			r.AfterFunc(time.Minute, func() { log.Send("timer of " + p.Name()) })
			r.Go("child", func() {
				defer log.Send("deferred")
				r.Sleep(time.Minute)
				log.Send("child goes on")
			})
			log.Send("started")
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
			}
		}
		p.Go("main", serve)
		log.Recv()
		r.Sleep(time.Second)
		c, err := client.Dial("server")
		if err != nil {
			r.Fail("dial", "%v", err)
		}
		r.Sleep(time.Second)
		p.Crash()
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			r.Fail("crash", "the connection is not reset: %v", err)
		}
		if _, err := client.Dial("server"); !errors.Is(err, ErrRefused) {
			r.Fail("crash", "dial: %v", err)
		}
		p.Go("main", serve)
		log.Recv()
		if _, err := client.Dial("server"); err != nil {
			r.Fail("restart", "%v", err)
		}
		p.Crash()
		r.Sleep(time.Hour)
		if i := Select(r, Recv(log, func(s string, _ bool) { r.Fail("crash", "after it: %s", s) }), Default(nil)); i != 1 {
			r.Fail("crash", "a task or a timer of a crashed process went on")
		}
	})
}

func TestATaskThatCrashesItsOwnProcessDoesNotGoOn(t *testing.T) {
	holds(t, func(r *Run) {
		p := r.NewProcess("p")
		p.Go("main", func() {
			p.Crash()
			r.Fail("crash", "it returned")
		})
		r.Sleep(time.Second)
	})
}

func TestAnEndlessWaitNamesTheTaskAndWhatItWaitsFor(t *testing.T) {
	x := Runner{World: FuncWorld("test", func(r *Run) {
		c := NewChan[int](r, "answers", 0)
		r.Go("ask", func() { c.Recv() })
	})}
	res, err := x.Seed("1")
	if err != nil || res.Failure == nil || res.Failure.Invariant != "ends" || !strings.Contains(res.Failure.Detail, "answers") {
		t.Errorf("%v %v; want a failure that names the channel", err, res.Failure)
	}
}

var _ net.Conn = (*Conn)(nil)
