package relay

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

// eventsPerBatch is how many sockets one batch of a poller serves at most. The outboxes
// that their steps fill leave at the end of the batch.
const eventsPerBatch = 256

// pollers are those of the process, one for each processor. Sockets are spread over
// them in turn.
var pollers struct {
	once sync.Once
	all  []*poller
	err  error
	next atomic.Uint32
}

// poller calls Ready for the sockets that it has, from one goroutine, which lives while
// it has any.
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

// registration is what an event names, in place of a pointer, which the kernel must not keep.
type registration struct {
	sock *rawSocket
	uses int32 // how often the entry was used; an event of a use before means nothing
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

// remove forgets s, whose descriptor is about to be closed, which takes it out of epoll.
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

// serve serves batches of events until none is there. It returns false: raw.Read then
// waits for the next event in Go's own poller, and calls serve again.
//
// Other goroutines run between two batches, and while the poller waits. The last look
// finds nothing. It is there because a poller that waits with events starts late while
// other goroutines compute.
func (p *poller) serve(fd uintptr) bool {
	p.waits.Store(false)
	for more := p.look(fd); more; {
		p.dispatch()
		if p.repeat {
			p.turn.Repeat()
		}
		p.repeat = p.turn.End()
		if more = p.look(fd) || p.repeat; more {
			runtime.Gosched()
		}
	}
	p.waits.Store(true)
	return false
}

// look gets the events that are there, and reports whether there are any.
func (p *poller) look(fd uintptr) bool {
	var err error
	if p.n, err = pollNow(fd, p.events[:]); err != nil {
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
