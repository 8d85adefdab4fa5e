package config

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// ListenError says that an address could not be listened on.
type ListenError struct {
	Option  string
	Address string
	Err     error
}

// Error is one sentence, with what to do where that is known.
func (e *ListenError) Error() string {
	s := fmt.Sprintf("cannot listen on %s (--%s): %v", e.Address, e.Option, reason(e.Err))
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		s += "; end the program that uses it, or choose another port"
	case errors.Is(e.Err, syscall.EACCES):
		s += "; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		s += "; this machine has no such address"
	}
	return s
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// reason is err without what net puts before it: the address is named.
func reason(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
