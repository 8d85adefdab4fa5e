//go:build !linux

package daemon

import (
	"os"
	"syscall"
)

// isListening is not known here: the first Accept tells.
func isListening(*os.File) bool { return true }

// tuneSocket does nothing: only Linux has TCP_USER_TIMEOUT.
func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }
