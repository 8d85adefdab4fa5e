//go:build linux && !race

package relay

import (
	"syscall"
	"unsafe"
)

// readNow, writeNow and pollNow are recv(2), send(2) and epoll_pwait(2) that do not wait.
// The scheduler is not told of them, as it is by syscall.Read. They return within
// microseconds; telling it, and having the processor taken away by its monitor when one
// takes 20, was a sixth or more of what a frame of 512 bytes cost (docs/performance.md).
// Under the race detector the usual calls are made, since it must see them.
//
// recv and send in place of read and write: they pass by what the kernel does for files,
// and the call itself says that it must not wait.
func readNow(fd int, p []byte) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT, 0, 0))
}

func writeNow(fd int, p []byte) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0))
}

func pollNow(fd uintptr, events []syscall.EpollEvent) (int, error) {
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
