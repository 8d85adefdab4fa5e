//go:build unix

package daemon

import "syscall"

// maxFiles is how many descriptors the process may open.
func maxFiles() (uint64, bool) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, false
	}
	return uint64(l.Cur), true
}
