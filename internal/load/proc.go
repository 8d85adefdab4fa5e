package load

import (
	"time"

	"github.com/prometheus/procfs"
)

// CPU returns the processor time of process pid. It sums the threads' times in
// nanoseconds if the kernel records them. Otherwise it returns the time in ticks of
// 10 ms. The sum excludes threads that have ended; a Go program's threads rarely
// end. CPU returns an error on a system without /proc.
func CPU(pid int) (time.Duration, error) {
	threads, err := procfs.AllThreads(pid)
	var sum uint64
	for _, t := range threads {
		s, e := t.Schedstat()
		if e != nil {
			sum = 0
			break
		}
		sum += s.RunningNanoseconds
	}
	if err != nil || sum > 0 {
		return time.Duration(sum), err
	}
	s, err := stat(pid)
	return time.Duration(s.CPUTime() * float64(time.Second)), err
}

// RSS returns the resident memory of process pid in bytes. It returns an error on a
// system without /proc.
func RSS(pid int) (int64, error) {
	s, err := stat(pid)
	return int64(s.ResidentMemory()), err
}

func stat(pid int) (procfs.ProcStat, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return p.Stat()
}
