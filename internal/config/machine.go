package config

import (
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// machine is what a configuration must fit.
type machine struct {
	root       bool
	files      uint64 // that the process may open
	filesKnown bool
}

// leastFiles is the fewest open files that a relay is any use with.
const leastFiles = spareFiles + 32

func thisMachine() machine {
	m := machine{root: isRoot()}
	m.files, m.filesKnown = MaxFiles()
	return m
}

// spareFiles is how many descriptors the process needs besides the public's
// connections: operators' connections, files, what Go itself has open.
const spareFiles = 64

// Fit lowers the caps of c to what the process's limit on open files allows,
// and says so: at that limit nobody could be answered any more, operators
// included.
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

// cgroupFraction is how much of the control group's limit the process aims to use.
// The rest is for what Go's limit does not count.
const cgroupFraction = 0.9

// Memory returns the limit on memory that c and the surroundings set, in bytes; 0 for
// none.
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
