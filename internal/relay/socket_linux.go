package relay

import (
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrycode/pyrycode-relay/internal/rawio"
	"github.com/pyrycode/pyrycode-relay/internal/sched"
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
	ending  atomic.Bool  // the peer's last byte has come, or an error: reads continue until it
}

// gone makes rawSocket.users negative.
const gone = -1 << 30

// newTCPSocket returns a Socket of tcp. tcp belongs to the Socket from then on, or is
// closed.
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
		_ = s.Close() // the first read returns the error
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

// TryRead implements Socket. A read that does not fill p has emptied the socket, so no
// further read is needed: bytes that come later cause an event of their own. If the end of
// the bytes has come together with them, the event has reported it.
func (s *rawSocket) TryRead(p []byte) (n int, more bool, err error) {
	if !s.enter() {
		return 0, false, net.ErrClosed
	}
	more = s.ending.Load()
	for {
		n, err = rawio.Recv(s.fd, p)
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
		n, err = rawio.Send(s.fd, p)
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

// eventsPerBatch is the maximum number of sockets that one batch of a poller serves. The
// outboxes that their steps fill are written at the end of the batch.
const eventsPerBatch = 256

// eventsPerYield is the number of events after which a poller lets other goroutines run.
// Each yield makes Go wake a thread, which usually finds nothing to run. A batch may exceed
// the number.
const eventsPerYield = 16

// pollers has the pollers of the process, one for each processor. Sockets are assigned to
// them in turn.
var pollers struct {
	once sync.Once
	all  []*poller
	err  error
	next atomic.Uint32
}

// poller calls Ready for its sockets from one goroutine, which runs while it has any.
//
// Each descriptor is registered once, edge-triggered and for both directions, so that
// neither reading nor writing needs a further epoll_ctl. The goroutine does not block in
// epoll_wait, which would need a thread: the epoll descriptor itself waits in Go's own
// poller.
type poller struct {
	file   *os.File    // the epoll descriptor
	fd     int32       // its number
	waits  atomic.Bool // in wait
	raw    syscall.RawConn
	events [eventsPerBatch]syscall.EpollEvent
	n      int // of events
	ready  [eventsPerBatch]*rawSocket
	turn   Turn
	repeat bool // watchers of turn wait for Repeat

	mu      sync.Mutex // guards all below
	slots   []registration
	free    []int32
	count   int
	running bool
}

// epollET is syscall.EPOLLET, which is negative on some systems.
const epollET = 1 << 31

// registration is the value in an event. The kernel must not keep a pointer.
type registration struct {
	sock *rawSocket
	uses int32 // the number of uses of the entry; an event of an earlier use is ignored
}

// nextPoller returns the poller for a new socket.
func nextPoller() (*poller, error) {
	pollers.once.Do(func() {
		for range runtime.GOMAXPROCS(0) {
			p, err := newPoller()
			if err != nil {
				pollers.err = err
				return
			}
			pollers.all = append(pollers.all, p)
		}
		sched.OnYield(wakePollers)
	})
	if pollers.err != nil {
		return nil, pollers.err
	}
	return pollers.all[int(pollers.next.Add(1))%len(pollers.all)], nil
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("setnonblock", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: int32(fd)}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, err
	}
	return p, nil
}

// add registers the descriptor of s.
func (p *poller) add(s *rawSocket) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		p.free = append(p.free, int32(len(p.slots)))
		p.slots = append(p.slots, registration{})
	}
	i := p.free[len(p.free)-1]
	e := &p.slots[i]
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET, Fd: i, Pad: e.uses}
	var err error
	if ctl := p.raw.Control(func(fd uintptr) { err = syscall.EpollCtl(int(fd), syscall.EPOLL_CTL_ADD, s.fd, &ev) }); ctl != nil {
		err = ctl
	}
	if err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	p.free = p.free[:len(p.free)-1]
	e.sock, s.poller, s.slot = s, p, i
	if p.count++; p.count == 1 {
		_ = p.file.SetReadDeadline(time.Time{})
	}
	if !p.running {
		p.running = true
		go p.run()
	}
	return nil
}

// remove removes s. The close of its descriptor, which follows, removes it from epoll.
func (p *poller) remove(s *rawSocket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &p.slots[s.slot]
	e.sock = nil
	e.uses++
	p.free = append(p.free, s.slot)
	if p.count--; p.count == 0 {
		_ = p.file.SetReadDeadline(longAgo) // ends run
	}
}

// run is the poller's goroutine.
func (p *poller) run() {
	for p.raw.Read(p.serve) == nil || !p.stop() {
	}
}

// serve serves batches of events until there are none. It then returns false: raw.Read
// waits for the next event in Go's own poller, and calls serve again.
//
// Other goroutines run after eventsPerYield events, and while the poller waits. The last
// call of epoll finds nothing. It is needed because a poller that waits with events starts
// late while other goroutines compute.
func (p *poller) serve(fd uintptr) bool {
	p.waits.Store(false)
	served := 0 // since the last yield
	for more := p.look(fd); more; {
		served += p.n
		p.dispatch()
		if p.repeat {
			p.turn.Repeat()
		}
		p.repeat = p.turn.End()
		if more = p.look(fd) || p.repeat; more && (p.repeat || served >= eventsPerYield) {
			runtime.Gosched()
			served = 0
		}
	}
	p.waits.Store(true)
	return false
}

// look gets the events that have come, and reports whether there are any.
func (p *poller) look(fd uintptr) bool {
	var err error
	if p.n, err = rawio.Poll(fd, p.events[:]); err != nil {
		p.n = 0
	}
	return p.n > 0
}

// wakePollers ends the waits of pollers that have events. Go's own poller does so late
// while all processors compute.
func wakePollers() {
	var fds [64]unix.PollFd
	for some := range slices.Chunk(pollers.all, len(fds)) {
		waits := false
		for i, p := range some {
			fds[i] = unix.PollFd{Fd: -1, Events: unix.POLLIN} // poll ignores it
			if p.waits.Load() {
				fds[i].Fd, waits = p.fd, true
			}
		}
		if !waits {
			continue
		}
		if n, err := unix.Poll(fds[:len(some)], 0); n == 0 || err != nil {
			continue
		}
		for i, p := range some {
			if fds[i].Revents != 0 && p.waits.CompareAndSwap(true, false) {
				_ = p.file.SetReadDeadline(longAgo)
			}
		}
	}
}

// stop ends run if no socket is left. Otherwise the poller may wait again.
func (p *poller) stop() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running = p.count > 0; p.running {
		_ = p.file.SetReadDeadline(time.Time{})
	}
	return !p.running
}

// dispatch calls Ready for the socket of each event.
func (p *poller) dispatch() {
	p.mu.Lock()
	for i := range p.events[:p.n] {
		p.ready[i] = nil
		if e := &p.slots[p.events[i].Fd]; e.uses == p.events[i].Pad {
			p.ready[i] = e.sock
		}
	}
	p.mu.Unlock()
	for i, s := range p.ready[:p.n] {
		if s == nil {
			continue
		}
		p.ready[i] = nil
		ev := p.events[i].Events
		if ev&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
			s.ending.Store(true)
		}
		const readable = syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
		const writable = syscall.EPOLLOUT | syscall.EPOLLHUP | syscall.EPOLLERR
		s.watcher.Ready(&p.turn, ev&readable != 0, ev&writable != 0)
	}
}
