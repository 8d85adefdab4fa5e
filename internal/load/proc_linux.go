package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is the unit of /proc/PID/stat: USER_HZ is 100 on every architecture
// that Go runs on.
const tick = 10 * time.Millisecond

// CPU returns the processor time of process pid. It sums the threads' times in
// nanoseconds if the kernel records them, and uses ticks otherwise. The sum
// excludes threads that have ended; a Go program's threads rarely end.
func CPU(pid int) (time.Duration, error) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	sum := int64(0)
	for _, name := range threads {
		b, err := os.ReadFile(name)
		if err != nil {
			return ticksOf(pid)
		}
		run, _, _ := bytes.Cut(b, []byte{' '})
		n, err := strconv.ParseInt(string(run), 10, 64)
		if err != nil {
			return ticksOf(pid)
		}
		sum += n
	}
	if sum == 0 {
		return ticksOf(pid)
	}
	return time.Duration(sum), nil
}

// ticksOf returns the processor time of process pid in ticks, from
// /proc/PID/stat.
func ticksOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the command's name, in parentheses; it can contain spaces
	// and parentheses.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	user, err1 := strconv.Atoi(string(f[11]))
	system, err2 := strconv.Atoi(string(f[12]))
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("/proc/%d/stat: no numbers", pid)
	}
	return time.Duration(user+system) * tick, nil
}

// RSS returns the resident memory of process pid in bytes.
func RSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm has %d fields", pid, len(f))
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}
