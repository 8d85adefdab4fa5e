package relay

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// rawSocket is a TCP connection used through a descriptor of its own, which a poller
// watches. It holds no buffer.
//
// The descriptor is a duplicate, and the one that Go's runtime has is closed: with both
// registered, each event woke Go's poller too, and an idle connection kept 1 KB of the
// runtime's memory.
type rawSocket struct {
	watcher Watcher
	poller  *poller // nil before Start
	fd      int
	slot    int32        // of the poller
	users   atomic.Int32 // calls that use fd; gone is added by Close
	closed  atomic.Bool  // fd is
	ending  atomic.Bool  // the peer's last byte has come, or an error: reads go on to it
}

// gone makes rawSocket.users negative.
const gone = -1 << 30

// newTCPSocket takes tcp over, which is closed or belongs to the Socket from then on.
func newTCPSocket(tcp *net.TCPConn) Socket {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return newStreamSocket(tcp)
	}
	boundUnsent(raw)
	fd := -1
	ctl := raw.Control(func(of uintptr) {
		var errno syscall.Errno
		var r uintptr
		if r, _, errno = syscall.Syscall(syscall.SYS_FCNTL, of, syscall.F_DUPFD_CLOEXEC, 0); errno == 0 {
			fd = int(r)
		}
	})
	if ctl != nil || fd < 0 { // no descriptor is left
		return newStreamSocket(tcp)
	}
	_ = tcp.Close() // only the descriptor: the connection has another
	return &rawSocket{fd: fd}
}

// Start implements Socket.
func (s *rawSocket) Start(w Watcher) {
	s.watcher = w
	if !s.enter() {
		return
	}
	p, err := nextPoller()
	if err == nil {
		err = p.add(s)
	}
	s.leave()
	if err != nil {
		_ = s.Close() // the first read tells
	}
}

// enter begins a use of fd. If it reports false, the socket is closed.
func (s *rawSocket) enter() bool {
	if s.users.Add(1) > 0 {
		return true
	}
	s.leave()
	return false
}

// leave ends a use of fd. The last one after Close closes it: a call that is under way
// must not meet another connection that has got the number.
func (s *rawSocket) leave() {
	if s.users.Add(-1) == gone && !s.closed.Swap(true) {
		if s.poller != nil {
			s.poller.remove(s)
		}
		_ = syscall.Close(s.fd)
	}
}

// TryRead implements Socket. A read that does not fill p has emptied the socket, so
// there is no further one to learn that: what comes later is an event of its own. Of an
// end that has come with the bytes the event has told.
func (s *rawSocket) TryRead(p []byte) (n int, more bool, err error) {
	if !s.enter() {
		return 0, false, net.ErrClosed
	}
	more = s.ending.Load()
	for {
		n, err = readNow(s.fd, p)
		if err != syscall.EINTR {
			break
		}
	}
	s.leave()
	switch {
	case n > 0:
		return n, more || n == len(p), nil
	case err == nil:
		return 0, false, io.EOF
	case err == syscall.EAGAIN:
		return 0, false, nil
	}
	return 0, false, os.NewSyscallError("recv", err)
}

// TryWrite implements Socket.
func (s *rawSocket) TryWrite(p []byte) (n int, err error) {
	if !s.enter() {
		return 0, net.ErrClosed
	}
	for {
		n, err = writeNow(s.fd, p)
		if err != syscall.EINTR {
			break
		}
	}
	s.leave()
	switch err {
	case nil:
		return n, nil
	case syscall.EAGAIN:
		return 0, nil
	}
	return 0, os.NewSyscallError("send", err)
}

// CloseWrite implements Socket.
func (s *rawSocket) CloseWrite() error {
	if !s.enter() {
		return net.ErrClosed
	}
	err := syscall.Shutdown(s.fd, syscall.SHUT_WR)
	s.leave()
	return err
}

// Close implements Socket.
func (s *rawSocket) Close() error {
	for {
		n := s.users.Load()
		if n < 0 {
			return nil
		}
		if s.users.CompareAndSwap(n, n+1+gone) {
			s.leave()
			return nil
		}
	}
}
