//go:build linux && !race

package load

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// quickConn is a TCP connection whose reads and writes bypass the scheduler's
// system call accounting, as those of the relay do. Otherwise the generator
// limits the measured throughput. One goroutine may read and one may write
// concurrently.
type quickConn struct {
	*net.TCPConn
	raw syscall.RawConn

	onRead  func(fd uintptr) bool // allocated once; the next fields are its input and result
	in      []byte
	nIn     int
	errIn   syscall.Errno
	onWrite func(fd uintptr) bool
	out     []byte
	nOut    int
}

// Quick returns conn as a quickConn if it is a TCP connection, otherwise conn.
func Quick(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	q := &quickConn{TCPConn: tcp, raw: raw}
	q.onRead = func(fd uintptr) bool {
		for {
			n, errno := now(syscall.SYS_RECVFROM, fd, q.in)
			if errno != syscall.EINTR {
				q.nIn, q.errIn = n, errno
				return errno != syscall.EAGAIN
			}
		}
	}
	q.onWrite = func(fd uintptr) bool {
		if n, errno := now(syscall.SYS_SENDTO, fd, q.out); errno == 0 {
			q.nOut = n
		}
		return true
	}
	return q
}

func (q *quickConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	q.in = p
	if err := q.raw.Read(q.onRead); err != nil {
		return 0, err
	}
	switch {
	case q.errIn != 0:
		return 0, q.errIn
	case q.nIn == 0:
		return 0, io.EOF
	}
	return q.nIn, nil
}

// Write sends without blocking. The standard library's Write handles the rest of
// p, and errors.
func (q *quickConn) Write(p []byte) (int, error) {
	q.out, q.nOut = p, 0
	if err := q.raw.Write(q.onWrite); err != nil {
		return 0, err
	}
	if q.nOut == len(p) {
		return len(p), nil
	}
	n, err := q.TCPConn.Write(p[q.nOut:])
	return q.nOut + n, err
}

// now calls recv(2) or send(2) on p without blocking.
func now(call, fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}
