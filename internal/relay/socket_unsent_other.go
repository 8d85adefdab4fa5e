//go:build !linux

package relay

import "syscall"

// boundUnsent does nothing: the other systems' send buffers are small, or
// have no such bound.
func boundUnsent(syscall.RawConn) {}
