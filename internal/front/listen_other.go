//go:build !linux

package front

import (
	"os"
	"syscall"
)

// IsListening returns true: on this system the first Accept reports the error.
func IsListening(*os.File) bool { return true }

// tuneSocket does nothing: only Linux has TCP_USER_TIMEOUT.
func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }
