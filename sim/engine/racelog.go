package engine

import (
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// GORACE is how the race detector must be set for a verdict per seed: by
// default it reports a pair of stacks only once. The log goes where
// raceLog finds it.
func GORACE(log string) string {
	return "suppress_equal_stacks=0 suppress_equal_addresses=0 history_size=7 halt_on_error=0 exitcode=0 atexit_sleep_ms=0 log_path=" + log
}

var raceRead int64 // how many bytes of the log have been read

// RaceReport is the detector's own text of the last race seen.
var RaceReport string

// raceLog reads what the detector has reported since the last call: each
// race as the unordered pair of the functions that met.
func raceLog() []string {
	path := ""
	for _, f := range strings.Fields(os.Getenv("GORACE")) {
		if p, ok := strings.CutPrefix(f, "log_path="); ok {
			path = p + "." + strconv.Itoa(os.Getpid())
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return []string{"see the report above"}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	b := make([]byte, st.Size()-raceRead)
	n, _ := f.ReadAt(b, raceRead)
	raceRead += int64(n)
	RaceReport = string(b[:n])
	pairs := RacePairs(RaceReport)
	if len(pairs) > 1 {
		pairs = pairs[:1] // the first names it; the others follow from it
	}
	return pairs
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
