package daemon

import "log/slog"

// spareFiles is how many descriptors the process needs besides the public's
// connections: operators' connections, files, what Go itself has open.
const spareFiles = 64

// fit lowers the caps of c to what the process's limit on open files allows,
// and says so: at that limit nobody could be answered any more, operators
// included.
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
