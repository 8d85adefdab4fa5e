package config

import (
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// machine has the properties of the machine and the user that a configuration depends
// on.
type machine struct {
	root       bool
	files      uint64 // descriptors that the process may open
	filesKnown bool
}

// leastFiles is the lowest limit on open files with which the relay starts.
const leastFiles = spareFiles + 32

func thisMachine() machine {
	m := machine{root: isRoot()}
	m.files, m.filesKnown = MaxFiles()
	return m
}

// spareFiles is the number of descriptors that the process needs in addition to the
// public connections: for operators' connections, files, and Go's runtime.
const spareFiles = 64

// Fit returns c with --max-conns and --max-pending lowered to the process's limit on
// open files, and logs a warning if it lowers them. At that limit the relay can accept
// no connection, not even an operator's.
func (c Config) Fit(log *slog.Logger) Config { return c.fit(log, MaxFiles) }

func (c Config) fit(log *slog.Logger, files func() (uint64, bool)) Config {
	n, ok := files()
	if !ok || n >= uint64(c.MaxConns)+uint64(c.MaxPending)+spareFiles {
		return c
	}
	asked := c
	left := max(int(n)-spareFiles, 2)
	c.MaxPending = max(min(c.MaxPending, left/4), 1)
	c.MaxConns = max(min(c.MaxConns, left-c.MaxPending), 1)
	log.Warn("the limit on open files is too low for --max-conns and --max-pending, which are lowered: raise it (ulimit -n, LimitNOFILE=) or ask for less",
		"files", n, "needed", uint64(asked.MaxConns)+uint64(asked.MaxPending)+spareFiles,
		"max_conns", c.MaxConns, "max_pending", c.MaxPending)
	return c
}

// cgroupFraction is the part of the control group's limit that the process uses. The
// rest is for memory that Go's limit does not count.
const cgroupFraction = 0.9

// Memory returns the limit on memory in bytes, from --memory-limit, GOMEMLIMIT or the
// control group. It returns 0 if no limit is set.
func (c Config) Memory() int64 {
	if c.MemoryLimit > 0 {
		return int64(c.MemoryLimit)
	}
	if set := debug.SetMemoryLimit(-1); set != math.MaxInt64 {
		return set // by GOMEMLIMIT
	}
	n, err := memlimit.ApplyRatio(memlimit.FromCgroup, cgroupFraction)()
	if err != nil || n > 1<<50 {
		return 0 // no control group has a limit
	}
	return int64(n)
}
