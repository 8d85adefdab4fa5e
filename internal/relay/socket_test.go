package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// waiter is a Watcher that lets a test wait for a Socket. It does not count what it is
// told: a socket may tell it more than once.
type waiter struct{ readable, writable chan struct{} }

func newWaiter() *waiter {
	return &waiter{make(chan struct{}, 1), make(chan struct{}, 1)}
}

func (w *waiter) Ready(_ *Turn, readable, writable bool) {
	if readable {
		signal(w.readable)
	}
	if writable {
		signal(w.writable)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// started is a Socket with its waiter.
type started struct {
	Socket
	*waiter
}

func start1(s Socket) started {
	w := newWaiter()
	s.Start(w)
	return started{s, w}
}

// read waits until bytes have come, and returns them.
func (s started) read() ([]byte, error) {
	for {
		p := make([]byte, len(Buffer{}))
		n, more, err := s.TryRead(p)
		if n > 0 || err != nil {
			return p[:n], err
		}
		if !more {
			<-s.readable
		}
	}
}

// readFull waits until n bytes have come.
func (s started) readFull(t *testing.T, n int) []byte {
	t.Helper()
	var got []byte
	for len(got) < n {
		p, err := s.read()
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), n, err)
		}
		got = append(got, p...)
	}
	return got
}

// write waits until all of p is taken, in chunks as an outbox offers them.
func (s started) write(p []byte) error {
	for len(p) > 0 {
		n, err := s.TryWrite(p[:min(len(p), writeChunk)])
		if err != nil {
			return err
		}
		if p = p[n:]; n == 0 {
			<-s.writable
		}
	}
	return nil
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (mine, peer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); accepted.Close() })
	return accepted.(*net.TCPConn), c.(*net.TCPConn)
}

// sockets are the implementations of Socket over TCP. All keep the same contract.
var sockets = map[string]func(*net.TCPConn) Socket{
	"of this system": newTCPSocket,
	"portable":       func(c *net.TCPConn) Socket { return newStreamSocket(c) },
}

// forEachSocket runs f with each implementation.
func forEachSocket(t *testing.T, f func(t *testing.T, s started, peer *net.TCPConn)) {
	for name, make := range sockets {
		t.Run(name, func(t *testing.T) {
			mine, peer := tcpPair(t)
			s := start1(make(mine))
			t.Cleanup(func() { s.Close() })
			f(t, s, peer)
		})
	}
}

// numbered returns n bytes of which none can take another's place unnoticed.
func numbered(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8*7 ^ i>>16*13)
	}
	return p
}

func TestASocketReadsAllBytesInOrderAndThenTheEnd(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		for _, size := range []int{1, 511, 512, 513, 64 << 10, 200_000} {
			want := numbered(size)
			go peer.Write(want)
			if got := s.readFull(t, size); !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, or wrong ones; want %d", len(got), size)
			}
		}
		peer.CloseWrite()
		for range 2 {
			if p, err := s.read(); len(p) != 0 || err != io.EOF {
				t.Errorf("at the end read = %d bytes, %v; want 0, EOF", len(p), err)
			}
		}
	})
}

// The end may come together with the last bytes, or after the event that tells of them.
func TestASocketReadsTheEndThatCameWithTheLastBytes(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		peer.Write([]byte("last"))
		peer.Close()
		if got := s.readFull(t, 4); string(got) != "last" {
			t.Errorf("read %q", got)
		}
		if _, err := s.read(); err != io.EOF {
			t.Errorf("read = %v; want EOF", err)
		}
	})
}

func TestASocketReadsWhatCameBeforeItsStart(t *testing.T) {
	for name, make := range sockets {
		t.Run(name, func(t *testing.T) {
			mine, peer := tcpPair(t)
			s := make(mine)
			defer s.Close()
			peer.Write([]byte("early"))
			if got := start1(s).readFull(t, 5); string(got) != "early" {
				t.Errorf("read %q", got)
			}
		})
	}
}

// A socket with nothing to read owes its watcher a call each time that bytes come.
func TestEachReadThatFindsNothingIsFollowedByACall(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		p := make([]byte, 100)
		for range 200 {
			for more := true; more; {
				_, more, _ = s.TryRead(p)
			}
			peer.Write([]byte("x"))
			<-s.readable
			for n := 0; n == 0; {
				if n, _, _ = s.TryRead(p); n == 0 {
					<-s.readable // the call before was about the byte before
				}
			}
		}
	})
}

func TestAResetEndsReadsAndWrites(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		if n, more, err := s.TryRead(make([]byte, 1)); n != 0 || more || err != nil {
			t.Fatalf("TryRead of nothing = %d, %t, %v", n, more, err)
		}
		peer.SetLinger(0)
		peer.Close()
		if _, err := s.read(); err == nil || err == io.EOF {
			t.Errorf("read = %v; want connection reset", err)
		}
		if err := s.write([]byte("x")); err == nil {
			err = s.write([]byte("x"))
			if _, ok := s.Socket.(*streamSocket); !ok || err == nil {
				t.Errorf("a write after a reset = %v; want an error", err)
			}
		}
	})
}

func TestASocketTakesAPartAndLaterTheRest(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		peer.SetReadBuffer(64 << 10)
		want := numbered(4 << 20) // more than the kernel takes
		wrote := make(chan error, 1)
		go func() {
			err := s.write(want)
			s.CloseWrite()
			wrote <- err
		}()
		time.Sleep(20 * time.Millisecond) // it is blocked, or soon
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the peer got %d bytes, %v; want the %d written", len(got), err, len(want))
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

func TestReadsContinueAfterCloseWrite(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the peer reads %v; want EOF", err)
		}
		peer.Write([]byte("still here"))
		if got := s.readFull(t, 10); string(got) != "still here" {
			t.Errorf("read %q", got)
		}
	})
}

func TestAClosedSocketFails(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, peer *net.TCPConn) {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("Close = %v", err)
			}
		}
		if n, err := s.TryWrite([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("TryWrite = %d, %v; want 0, closed", n, err)
		}
		if n, _, err := s.TryRead(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("TryRead = %d, %v; want 0, closed", n, err)
		}
		if _, err := peer.Read(make([]byte, 1)); err == nil {
			t.Error("the peer reads a byte; want the end")
		}
	})
}

// Start after Close must not bring the socket back.
func TestASocketThatIsClosedBeforeItsStartStaysClosed(t *testing.T) {
	for name, make := range sockets {
		t.Run(name, func(t *testing.T) {
			mine, _ := tcpPair(t)
			s := make(mine)
			s.Close()
			if _, err := start1(s).read(); err == nil {
				t.Error("read = nil; want an error")
			}
		})
	}
}

// While one task closes a socket, others use it, and further connections get the numbers
// of closed descriptors. No byte may reach the wrong connection.
func TestAClosedSocketNeverUsesTheDescriptorOfAnother(t *testing.T) {
	forEachSocket(t, func(t *testing.T, s started, _ *net.TCPConn) {
		make := newTCPSocket
		if _, ok := s.Socket.(*streamSocket); ok {
			make = sockets["portable"]
		}
		for range 100 {
			mine, peer := tcpPair(t)
			s := start1(make(mine))
			var users sync.WaitGroup
			for range 2 {
				users.Go(func() {
					for {
						if _, err := s.TryWrite([]byte("a")); err != nil {
							return
						}
					}
				})
			}
			users.Go(func() { s.Close() })
			second, secondPeer := tcpPair(t)
			users.Wait()
			second.CloseWrite()
			if b, _ := io.ReadAll(secondPeer); len(b) != 0 {
				t.Fatalf("%d bytes of a closed connection reached another one", len(b))
			}
			peer.Close()
		}
	})
}

// busy is a watcher that always has more to do, as a connection of a peer that sends
// without a pause.
type busy struct {
	steps int
	out   *testOutbox
}

func (b *busy) Ready(t *Turn, _, _ bool) {
	b.steps++
	t.dirty = append(t.dirty, &b.out.outbox)
	t.messages += messagesPerStep
	t.stepped()
	t.Again(b)
}

// A poller looks for new events only after End, so connections that always have more to
// do must not keep it there.
func TestTheEndOfATurnIsBoundedHoweverMuchThereIsToDo(t *testing.T) {
	for _, conns := range []int{1, 3, 201} {
		var turn Turn
		b := &busy{out: newTestOutbox(1000, 1000)}
		for range conns {
			b.Ready(&turn, true, false)
		}
		if !turn.End() {
			t.Errorf("%d connections: End says that none has more to do", conns)
		}
		if most := (1 + 4) * conns; b.steps > most {
			t.Errorf("%d connections: %d steps in a batch; want %d at most", conns, b.steps, most)
		}
	}
}
