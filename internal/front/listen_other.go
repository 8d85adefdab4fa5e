//go:build !linux

package front

import (
	"os"
	"syscall"
)

// IsListening is not known here: the first Accept tells.
func IsListening(*os.File) bool { return true }

// tuneSocket does nothing: only Linux has TCP_USER_TIMEOUT.
func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }
