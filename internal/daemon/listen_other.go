//go:build !linux

package daemon

import "syscall"

// tuneSocket does nothing: only Linux has TCP_USER_TIMEOUT.
func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }
