package daemon

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// tuneSocket sets TCP_USER_TIMEOUT on a listening socket, from which those
// it accepts inherit it.
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
