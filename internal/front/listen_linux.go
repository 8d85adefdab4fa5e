package front

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsListening reports whether f is a socket that listens.
func IsListening(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	on := 0
	if cerr := raw.Control(func(fd uintptr) {
		on, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}); cerr != nil || err != nil {
		return false
	}
	return on != 0
}

// tuneSocket sets TCP_USER_TIMEOUT on a listening socket. The connections that it accepts
// inherit the option.
func tuneSocket(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}
