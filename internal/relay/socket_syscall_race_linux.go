//go:build linux && race

package relay

import "syscall"

func readNow(fd int, p []byte) (int, error)  { return syscall.Read(fd, p) }
func writeNow(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }

func pollNow(fd uintptr, events []syscall.EpollEvent) (int, error) {
	return syscall.EpollWait(int(fd), events, 0)
}
