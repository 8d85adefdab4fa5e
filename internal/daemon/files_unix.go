//go:build unix

package daemon

import (
	"io/fs"
	"os"
	"syscall"
)

// maxFiles is how many descriptors the process may open.
func maxFiles() (uint64, bool) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, false
	}
	return uint64(l.Cur), true
}

// isRoot reports whether the process may do everything.
func isRoot() bool { return os.Geteuid() == 0 }

// ownedByUs reports whether a file belongs to the user of the process.
func ownedByUs(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid()
}
