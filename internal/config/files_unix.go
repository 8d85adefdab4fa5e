//go:build unix

package config

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// nonBlocking makes the open of a pipe without a writer return.
const nonBlocking = syscall.O_NONBLOCK

// MaxFiles returns the number of descriptors that the process may open, and whether
// it is known.
func MaxFiles() (uint64, bool) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, false
	}
	return uint64(l.Cur), true
}

// isRoot reports whether the process runs as root.
func isRoot() bool { return os.Geteuid() == 0 }

// ownedByUs reports whether a file belongs to the user of the process.
func ownedByUs(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid()
}

// fileID identifies a file by device, inode and kind. Two files that exist at the same
// time differ in it.
func fileID(info fs.FileInfo) string {
	id := info.Mode().Type().String()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		id += fmt.Sprintf(" %d:%d", s.Dev, s.Ino)
	}
	return id
}

// mayAccess reports whether the user of the process may read a file or directory
// and, with write, write it. It asks the kernel and changes nothing.
func mayAccess(name string, write bool) error {
	mode := uint32(unix.R_OK)
	if write {
		mode |= unix.W_OK
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		mode |= unix.X_OK
	}
	return unix.Faccessat(unix.AT_FDCWD, name, mode, unix.AT_EACCESS)
}
