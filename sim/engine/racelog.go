package engine

import (
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"
)

// GORACE is how the race detector must be set for a verdict per seed: by
// default it reports a pair of stacks only once. The log goes where
// raceLog finds it.
func GORACE(log string) string {
	return "suppress_equal_stacks=0 suppress_equal_addresses=0 history_size=7 halt_on_error=0 exitcode=0 atexit_sleep_ms=0 log_path=" + log
}

var raceRead int64 // how many bytes of the log have been read

// raceLog returns what the detector has reported since the last call, or "" if its
// log cannot be read.
func raceLog() string {
	path := ""
	for _, f := range strings.Fields(os.Getenv("GORACE")) {
		if p, ok := strings.CutPrefix(f, "log_path="); ok {
			path = p + "." + strconv.Itoa(os.Getpid())
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, st.Size()-raceRead)
	n, _ := f.ReadAt(b, raceRead)
	raceRead += int64(n)
	return shapes.ReplaceAllString(string(b[:n]), "[...]")
}

// shapes are the type arguments that the compiler writes into the names of functions.
var shapes = regexp.MustCompile(`\[go\.shape\.[^\]]*\]`)

// A Race is the first data race of a run; others often follow from it.
type Race struct {
	Functions string // the two functions that met, in alphabetical order
	Stacks    string // the detector's report, in which tasks stand for goroutines
	tasks     []*Task
}

// newRace reads the first race of a report. goroutines are the tasks by the number
// that the report gives to their goroutines, as far as it is known.
func newRace(report string, goroutines map[string]*Task) *Race {
	pairs := RacePairs(report)
	if len(pairs) == 0 {
		return &Race{Functions: "see the report above"}
	}
	r := &Race{Functions: pairs[0]}
	block := strings.Split(report, "WARNING: DATA RACE")[1]
	block, _, _ = strings.Cut(block, "==================")
	block = ownFrames(addresses.ReplaceAllString(block, ""))
	r.Stacks = strings.TrimSpace(goroutine.ReplaceAllStringFunc(block, func(s string) string {
		t := goroutines[numbers.FindString(s)]
		if strings.HasPrefix(s, "main") {
			t = goroutines["main"]
		}
		if t == nil {
			return numbers.ReplaceAllString(s, "?")
		}
		if !slices.Contains(r.tasks, t) {
			r.tasks = append(r.tasks, t)
		}
		return "task " + t.Title()
	}))
	return r
}

// ownFrames leaves out of each stack of a report the frames of the engine below the
// task, and the stacks of where the engine itself has started an actor or a timer: they
// name its caller, which is not a part of the run.
func ownFrames(block string) string {
	var stacks []string
	for _, stack := range strings.Split(strings.TrimSpace(block), "\n\n") {
		head, frames, _ := strings.Cut(stack, "\n")
		frames = "\n" + frames
		for _, below := range []string{"/sim/engine.(*Run).run.func1()", "/sim/engine.guard()", "/sim/engine.(*Run).advanceTo()", "/sim/engine.(*Run).run()"} {
			if i := strings.Index(frames, below); i >= 0 {
				frames = frames[:strings.LastIndex(frames[:i], "\n")]
			}
		}
		if strings.Contains(head, "created at") && strings.TrimSpace(frames) == "" {
			continue
		}
		stacks = append(stacks, head+frames)
	}
	return strings.Join(stacks, "\n\n")
}

// What of a report differs from process to process.
var (
	addresses = regexp.MustCompile(` at 0x[0-9a-f]+|(?m) \+0x[0-9a-f]+$`)
	goroutine = regexp.MustCompile(`[Gg]oroutine \d+|main goroutine`)
	numbers   = regexp.MustCompile(`\d+`)
)

// A witness finds out the number that the race detector gives to each goroutine. The detector
// shows it in its reports only. Each task writes a value of its own as it begins. After the run
// the witness writes to them all. Its goroutine has seen no synchronisation since before the run,
// so each write is a race, and its report has the number.
// The methods may be called with nil.
type witness struct {
	ask  chan []*int
	done chan struct{}
	self int // written by the goroutine of the engine
}

func newWitness() *witness {
	w := &witness{ask: make(chan []*int), done: make(chan struct{})}
	go w.run()
	w.self = 1
	return w
}

func (w *witness) run() {
	hideOn()
	defer hideOff()
	for values := range w.ask {
		for _, v := range values {
			*v = 2
		}
		w.done <- struct{}{}
	}
}

// goroutines returns the tasks by the number of their goroutines. That of the engine
// is e.main.
func (w *witness) goroutines(e *Run) map[string]*Task {
	if w == nil {
		return nil
	}
	values, tasks := []*int{&w.self}, map[string]*Task{fmt.Sprintf("%#012x", uintptr(unsafe.Pointer(&w.self))): e.main}
	for _, t := range e.tasks[1:e.ntasks] {
		values = append(values, t.seen)
		tasks[fmt.Sprintf("%#012x", uintptr(unsafe.Pointer(t.seen)))] = t
	}
	hideOn()
	w.ask <- values
	<-w.done
	hideOff()
	found := map[string]*Task{}
	for _, m := range previous.FindAllStringSubmatch(raceLog(), -1) {
		if t := tasks[m[1]]; t != nil {
			found[m[2]] = t
		}
	}
	return found
}

var previous = regexp.MustCompile(`Previous write at (0x[0-9a-f]+) by (?:goroutine )?(\d+|main)`)

// end ends the goroutine of the witness.
func (w *witness) end() {
	if w != nil {
		hideOn()
		close(w.ask)
		hideOff()
	}
}

// RacePairs lists the races in a report of the detector.
func RacePairs(report string) []string {
	var pairs []string
	for _, block := range strings.Split(report, "WARNING: DATA RACE")[1:] {
		var ends []string
		for _, stack := range strings.Split(block, "\n\n") {
			head, frames, _ := strings.Cut(strings.TrimSpace(stack), "\n")
			if strings.HasPrefix(head, "Read at") || strings.HasPrefix(head, "Write at") || strings.HasPrefix(head, "Previous") {
				ends = append(ends, topFrame(frames))
			}
		}
		slices.Sort(ends)
		pairs = append(pairs, strings.Join(ends, " | "))
	}
	return pairs
}

// topFrame returns the innermost function of a stack that belongs to the module of
// the program and not to this package. If the stack has none, it returns the innermost
// function of the module, or of all.
func topFrame(frames string) string {
	var module, all string
	for _, l := range strings.Split(frames, "\n") {
		if strings.HasPrefix(l, "      ") || !strings.HasSuffix(l, ")") {
			continue
		}
		path := strings.ReplaceAll(strings.TrimSuffix(strings.TrimSpace(l), "()"), "[...]", "")
		name := path[strings.LastIndex(path, "/")+1:]
		if all == "" {
			all = name
		}
		if !strings.HasPrefix(path, mainModule()) {
			continue
		}
		if !strings.Contains(path, "/sim/engine.") {
			return name
		}
		if module == "" {
			module = name
		}
	}
	if module != "" {
		return module
	}
	return all
}

// mainModule is the path of the module of the program.
var mainModule = sync.OnceValue(func() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path != "" {
		return info.Main.Path
	}
	return "main."
})
