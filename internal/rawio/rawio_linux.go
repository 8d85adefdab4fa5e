//go:build linux && !race

// Package rawio calls recv(2), send(2) and epoll_pwait(2) without waiting.
//
// The scheduler is not told of the calls, as it is by syscall.Read. They return within
// microseconds; telling it, and having the processor taken away by its monitor when one
// takes 20, was a sixth or more of what a frame of 512 bytes cost (docs/performance.md).
// Under the race detector the usual calls are made, since it must see them.
//
// recv and send in place of read and write: they pass by what the kernel does for files,
// and the call itself says that it must not wait.
//
// The package imports nothing of this module.
package rawio

import (
	"syscall"
	"unsafe"
)

// Recv reads from a socket.
func Recv(fd int, p []byte) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT, 0, 0))
}

// Send writes to a socket.
func Send(fd int, p []byte) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0))
}

// Poll returns events of an epoll descriptor.
func Poll(fd uintptr, events []syscall.EpollEvent) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0))
}

func result(n, _ uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return 0, syscall.EAGAIN // a constant: the conversion of errno allocates
	}
	return 0, errno
}
