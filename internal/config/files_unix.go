//go:build unix

package config

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// nonBlocking makes the opening of a pipe return although nobody writes to it.
const nonBlocking = syscall.O_NONBLOCK

// MaxFiles is how many descriptors the process may open.
func MaxFiles() (uint64, bool) {
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

// fileID tells files apart that are there at the same time: by device, inode
// and kind.
func fileID(info fs.FileInfo) string {
	id := info.Mode().Type().String()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		id += fmt.Sprintf(" %d:%d", s.Dev, s.Ino)
	}
	return id
}

// access reports whether the user of the process may read a file or directory
// and, with write, write it. It asks the kernel and changes nothing.
func access(name string, write bool) error {
	mode := uint32(unix.R_OK)
	if write {
		mode |= unix.W_OK
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		mode |= unix.X_OK
	}
	return unix.Faccessat(unix.AT_FDCWD, name, mode, unix.AT_EACCESS)
}
