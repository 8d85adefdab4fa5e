//go:build linux && !race

package relay

import (
	"syscall"
	"unsafe"
)

// atOnce is the longest write that is surely short.
const atOnce = 64 << 10

// readNow and writeNow are read(2) and write(2) on a descriptor that does
// not block. The scheduler is not told of them, as it is by syscall.Read.
// They return within microseconds; telling it, and having the processor
// taken away by its monitor when one takes 20, was a sixth or more of what a
// frame of 512 bytes cost (docs/performance.md). Under the race detector the usual
// calls are made, since it must see them.
func readNow(fd uintptr, p []byte) (int, error) {
	return result(syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))))
}

func writeNow(fd uintptr, p []byte) (int, error) {
	if len(p) > atOnce {
		return syscall.Write(int(fd), p)
	}
	return result(syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))))
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
