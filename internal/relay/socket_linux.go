//go:build linux && !race

package relay

import (
	"syscall"
	"unsafe"
)

// atOnce is the longest write that is surely short.
const atOnce = 64 << 10

// readNow and writeNow are recv(2) and send(2) that do not wait. The scheduler
// is not told of them, as it is by syscall.Read. They return within
// microseconds; telling it, and having the processor taken away by its monitor
// when one takes 20, was a sixth or more of what a frame of 512 bytes cost
// (docs/performance.md). Under the race detector the usual calls are made,
// since it must see them.
//
// recv and send in place of read and write: they pass by what the kernel does
// for files, and the call itself says that it must not wait.
func readNow(fd uintptr, p []byte) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT, 0, 0))
}

func writeNow(fd uintptr, p []byte) (int, error) {
	if len(p) > atOnce {
		return syscall.Write(int(fd), p)
	}
	return result(syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0))
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
