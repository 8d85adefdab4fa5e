//go:build linux && race

// Package rawio calls read, write and poll on sockets that do not wait.
package rawio

import "syscall"

// Recv reads from a socket.
func Recv(fd int, p []byte) (int, error) { return result(syscall.Read(fd, p)) }

// Send writes to a socket.
func Send(fd int, p []byte) (int, error) { return result(syscall.Write(fd, p)) }

// Poll returns events of an epoll descriptor.
func Poll(fd uintptr, events []syscall.EpollEvent) (int, error) {
	return result(syscall.EpollWait(int(fd), events, 0))
}

func result(n int, err error) (int, error) { return max(n, 0), err }
