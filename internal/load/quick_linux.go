package load

import (
	"io"
	"net"
	"syscall"

	"github.com/pyrycode/pyrycode-relay/internal/rawio"
)

// quickConn is a TCP connection with reads and writes that bypass the scheduler's
// system call accounting, as those of the relay do. Otherwise the generator
// limits the measured throughput. One goroutine may read and one may write
// concurrently.
type quickConn struct {
	*net.TCPConn
	raw syscall.RawConn

	onRead  func(fd uintptr) bool // allocated once; the next fields are its input and result
	in      []byte
	nIn     int
	errIn   error
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
			if q.nIn, q.errIn = rawio.Recv(int(fd), q.in); q.errIn != syscall.EINTR {
				return q.errIn != syscall.EAGAIN
			}
		}
	}
	q.onWrite = func(fd uintptr) bool {
		q.nOut, _ = rawio.Send(int(fd), q.out) // Write meets the same error
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
	case q.errIn != nil:
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
