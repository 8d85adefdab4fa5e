package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// otherModule is a program in another module: a table of leases, and tests that use
// what this package's doc describes.
var otherModule = map[string]string{
	"go.mod": `module example.com/lease

go 1.26

require github.com/pyrycode/pyrycode-relay v0.0.0

replace github.com/pyrycode/pyrycode-relay => ROOT
`,
	"lease.go": `package lease

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

type Table struct {
	run    *engine.Run
	mu     *engine.Mutex
	holder map[string]string
	Hits   int
}

func New(r *engine.Run) *Table {
	return &Table{run: r, mu: engine.NewMutex(r, "table"), holder: map[string]string{}}
}

func (t *Table) Acquire(key, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder[key] != "" {
		return false
	}
	t.holder[key] = name
	t.run.AfterFunc(time.Second, func() { t.end(key, name) })
	return true
}

// Release gives the lease back if it is still held.
func (t *Table) Release(key, name string) { t.end(key, name) }

func (t *Table) Holds(key, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holder[key] == name
}

func (t *Table) end(key, name string) {
	t.mu.Lock()
	mine := t.holder[key] == name
	t.mu.Unlock()
	if !mine {
		return
	}
	t.mu.Lock()
	delete(t.holder, key) // BUG: it may have another holder by now
	t.mu.Unlock()
}
`,
	"lease_test.go": `package lease

import (
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestOnlyTheHolderEndsItsLease(t *testing.T) {
	engine.Test(t, func(r *engine.Run) {
		table, all := New(r), engine.NewWaitGroup(r)
		for _, name := range []string{"ann", "bob"} {
			all.Go(name, func() {
				for !table.Acquire("key", name) {
					r.Sleep(time.Second / 2)
				}
				began := r.Time()
				r.Sleep(time.Second / 2)
				if !table.Holds("key", name) && r.Time().Sub(began) < time.Second {
					r.Fail("lease", "%s has lost the lease after %v", name, r.Time().Sub(began))
				}
				r.Sleep(time.Second / 2)
				table.Release("key", name)
			})
		}
		all.Wait()
	})
}

func TestHits(t *testing.T) {
	engine.Test(t, func(r *engine.Run) {
		table, all := New(r), engine.NewWaitGroup(r)
		for range 2 {
			all.Go("hit", func() { table.Hits++ }) // BUG: no lock
		}
		all.Wait()
	})
}

func TestMessagesWithoutABug(t *testing.T) {
	engine.Test(t, func(r *engine.Run) {
		c := engine.NewChan[int](r, "c", 0)
		r.Go("send", func() { c.Send(1) })
		if v, _ := c.Recv(); v != 1 {
			r.Fail("value", "%d", v)
		}
	})
}
`,
}

// Another module can import the engine, find its bugs and replay them.
func TestAnotherModuleFindsItsBug(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range otherModule {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "ROOT", root)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, bool) {
		t.Helper()
		cmd := exec.Command("go", append([]string{"test", "-count=1"}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		text, err := cmd.CombinedOutput()
		if _, ok := err.(*exec.ExitError); err != nil && !ok {
			t.Fatal(err)
		}
		return string(text), err == nil
	}
	contains := func(text string, ok, want bool, all ...string) {
		t.Helper()
		if ok != want {
			t.Errorf("passed %t; want %t\n%s", ok, want, text)
		}
		for _, s := range all {
			if !strings.Contains(text, s) {
				t.Errorf("it does not say %q:\n%s", s, text)
			}
		}
	}
	text, ok := run("-run", "MessagesWithoutABug")
	contains(text, ok, true)
	text, ok = run("-run", "OnlyTheHolder", "-sim.out", out)
	contains(text, ok, false, "broken: lease: ", "what matters: ", "  at main.1/", "-sim.seed ", "-sim.replay "+out)
	seed := regexp.MustCompile(`-sim\.seed (\d+)`).FindStringSubmatch(text)
	file := regexp.MustCompile(`-sim\.replay (\S+)`).FindStringSubmatch(text)
	if seed == nil || file == nil {
		t.FailNow()
	}
	text, ok = run("-run", "OnlyTheHolder", "-sim.out", out, "-sim.seed", seed[1])
	contains(text, ok, false, "broken: lease: ")
	text, ok = run("-run", "OnlyTheHolder", "-sim.replay", file[1])
	contains(text, ok, false, "lease: ")
	if page, err := os.ReadFile(strings.TrimSuffix(file[1], ".run") + ".html"); err != nil || !strings.Contains(string(page), `class="bad"`) {
		t.Errorf("no page that shows the failing step: %v", err)
	}
	text, ok = run("-run", "TestHits")
	contains(text, ok, true)
	if testing.Short() {
		return
	}
	text, ok = run("-race", "-run", "TestHits", "-sim.out", out)
	contains(text, ok, false, "race: ", "TestHits.func1", "go test -race -run '^TestHits$' -sim.seed ")
	text, ok = run("-race", "-run", "MessagesWithoutABug")
	contains(text, ok, true)
}
