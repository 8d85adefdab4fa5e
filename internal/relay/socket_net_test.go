package relay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// loopback returns the two ends of a TCP connection: the relay's and the peer's.
func loopback(t testing.TB) (*rawSocket, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := <-accepted
	s, ok := newNetSocket(conn).(*rawSocket)
	if !ok {
		t.Fatalf("the socket of a TCP connection is a %T", newNetSocket(conn))
	}
	t.Cleanup(func() { conn.Close(); peer.Close() })
	return s, peer.(*net.TCPConn)
}

// hungry makes s call f each time that a Read finds no bytes and begins to wait.
func (s *rawSocket) hungry(f func()) {
	s.onRead = func(fd uintptr) bool {
		ready := s.readReady(fd)
		if !ready {
			f()
		}
		return ready
	}
}

func TestARawSocketReadsAllBytesInOrder(t *testing.T) {
	s, peer := loopback(t)
	for _, size := range []int{1, 512, 64 << 10} {
		want := bytes.Repeat([]byte{'x'}, size)
		if _, err := peer.Write(want); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < size {
			b, n, err := s.Read()
			if err != nil || n == 0 {
				t.Fatalf("Read = %d, %v", n, err)
			}
			got = append(got, b[:n]...)
			b.Free()
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, or wrong ones; want %d", len(got), size)
		}
	}
	peer.CloseWrite()
	for range 2 {
		if b, n, err := s.Read(); b != nil || n != 0 || err != io.EOF {
			t.Errorf("at the end Read = %v, %d, %v; want nil, 0, EOF", b != nil, n, err)
		}
	}
}

func TestAResetEndsARead(t *testing.T) {
	s, peer := loopback(t)
	waits := make(chan struct{}, 1)
	s.hungry(func() { waits <- struct{}{} })
	ended := make(chan error)
	go func() {
		b, n, err := s.Read()
		if b != nil || n != 0 {
			t.Errorf("Read = %v, %d with its error", b != nil, n)
		}
		ended <- err
	}()
	<-waits
	peer.SetLinger(0)
	peer.Close()
	if err := <-ended; err == nil || err == io.EOF {
		t.Errorf("Read = %v; want connection reset", err)
	}
}

// A buffer of 64 KiB per idle connection is more than the relay can afford.
func TestARawSocketThatWaitsHasNoBuffer(t *testing.T) {
	const conns = 100
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // the second collection frees the content of the pools
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	type pair struct {
		s    *rawSocket
		peer *net.TCPConn
	}
	var pairs []pair
	for range conns {
		s, peer := loopback(t)
		pairs = append(pairs, pair{s, peer})
	}
	before := heap()
	waits := make(chan struct{}, 4*conns)
	ended := make(chan struct{})
	for _, p := range pairs {
		p.s.hungry(func() { waits <- struct{}{} })
		go func() {
			for {
				b, _, err := p.s.Read()
				if err != nil {
					break
				}
				b.Free()
			}
			ended <- struct{}{}
		}()
	}
	for range conns {
		<-waits
	}
	for _, p := range pairs { // again, after data has arrived
		p.peer.Write(make([]byte, 10_000))
	}
	for range conns {
		<-waits
	}
	if grown := int64(heap()) - int64(before); grown > conns*16<<10 {
		t.Errorf("%d waiting connections hold %d bytes each; want no buffer", conns, grown/conns)
	}
	for _, p := range pairs {
		if p.s.in != nil {
			t.Error("a waiting socket has a buffer")
		}
		p.s.Close()
	}
	for range conns {
		<-ended
	}
}

// A Read that finds no bytes returns its buffer to the pool and takes it again later.
func TestReadsOfARawSocketDoNotAllocate(t *testing.T) {
	skipUnderRace(t)
	s, peer := loopback(t)
	waits := make(chan struct{})
	s.hungry(func() { waits <- struct{}{} })
	go func() {
		for range waits {
			peer.Write([]byte("x"))
		}
	}()
	defer close(waits)
	read := func() {
		b, _, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		b.Free()
	}
	for range 100 {
		read()
	}
	if n := testing.AllocsPerRun(500, read); n != 0 {
		t.Errorf("%v allocations for a read that waits; want 0", n)
	}
}

func TestTryWriteWritesAPartAndWriteTheRest(t *testing.T) {
	s, peer := loopback(t)
	s.tcp.SetWriteBuffer(64 << 10)
	peer.SetReadBuffer(64 << 10)
	want := make([]byte, 4<<20) // more than the kernel takes
	for i := range want {
		want[i] = byte(i * 7)
	}
	n, err := s.TryWrite(want)
	if err != nil || n == 0 || n == len(want) {
		t.Fatalf("TryWrite of %d = %d, %v; want a part", len(want), n, err)
	}
	for { // until the kernel takes no more
		k, err := s.TryWrite(want[n:])
		if err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			break
		}
		n += k
	}
	wrote := make(chan error)
	go func() {
		_, err := s.Write(want[n:])
		s.CloseWrite()
		wrote <- err
	}()
	got, err := io.ReadAll(peer)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the peer got %d bytes, %v; want the %d written", len(got), err, len(want))
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if s.out != nil {
		t.Error("the socket still refers to the written bytes")
	}
}

func TestTryWriteFailsOnAClosedOrResetConnection(t *testing.T) {
	t.Run("after a close", func(t *testing.T) {
		s, _ := loopback(t)
		s.Close()
		if n, err := s.TryWrite([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("TryWrite = %d, %v; want 0, closed", n, err)
		}
		if _, _, err := s.Read(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read = %v; want closed", err)
		}
	})
	t.Run("after the peer reset", func(t *testing.T) {
		s, peer := loopback(t)
		peer.SetLinger(0)
		peer.Close()
		if _, _, err := s.Read(); err == nil { // it has come
			t.Fatal("Read after a reset = nil")
		}
		if n, err := s.TryWrite([]byte("x")); n != 0 || err == nil {
			t.Errorf("TryWrite = %d, %v; want 0 and an error", n, err)
		}
	})
}

func TestCloseWakesReaderAndWriter(t *testing.T) {
	s, _ := loopback(t)
	waits := make(chan struct{}, 1)
	s.hungry(func() { waits <- struct{}{} })
	p := make([]byte, 1<<20)
	for {
		n, err := s.TryWrite(p)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	ended := make(chan error, 2)
	go func() { _, _, err := s.Read(); ended <- err }()
	go func() { _, err := s.Write(p); ended <- err }()
	<-waits
	s.Close()
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v; want closed", err)
		}
	}
	s.Close()
}

func TestReadsContinueAfterCloseWrite(t *testing.T) {
	s, peer := loopback(t)
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer reads %v; want EOF", err)
	}
	peer.Write([]byte("still here"))
	b, n, err := s.Read()
	if err != nil || string(b[:n]) != "still here" {
		t.Errorf("Read = %q, %v", b[:n], err)
	}
	b.Free()
}

// scripted is a net.Conn that receives given pieces, like TLS records: a Read returns at
// most the rest of one piece. It records the size of the buffer of each Read that waits.
type scripted struct {
	net.Conn
	reads   []int // the sizes of the pieces; 0: a Read of no bytes without an error
	begun   bool  // a part of the first piece has been read
	hurry   bool  // the deadline has passed
	waits   []int
	written int
	next    byte
}

func (c *scripted) SetReadDeadline(at time.Time) error {
	c.hurry = !at.IsZero()
	return nil
}

func (c *scripted) Read(p []byte) (n int, err error) {
	switch {
	case c.hurry && !c.begun:
		return 0, os.ErrDeadlineExceeded
	case !c.hurry && !c.begun:
		c.waits = append(c.waits, len(p))
	}
	if len(c.reads) == 0 {
		return 0, io.EOF
	}
	if n = c.reads[0]; n > len(p) {
		n = len(p)
		c.reads[0] -= n
		c.begun = true
	} else {
		c.reads = c.reads[1:]
		c.begun = false
	}
	for i := range n {
		p[i] = c.next
		c.next++
	}
	return n, nil
}

func (c *scripted) Write(p []byte) (int, error) { c.written += len(p); return len(p), nil }

// The socket reads all bytes in order, whatever the sizes of the pieces are.
func TestAStreamSocketReadsAllBytesInOrder(t *testing.T) {
	for _, reads := range [][]int{
		{1}, {511}, {512}, {513}, {511, 512, 513}, {512, 1}, {512, 512, 512}, {1024}, {1025}, {64 << 10}, {64<<10 + 512},
		{64<<10 + 513}, {200_000}, {1, 200_000, 1}, {512, 64 << 10, 512},
	} {
		want := 0
		for _, n := range reads {
			want += n
		}
		c := &scripted{reads: append([]int(nil), reads...)}
		s := newNetSocket(c)
		got := 0
		for {
			b, n, err := s.Read()
			if err != nil {
				if err != io.EOF || b != nil || n != 0 {
					t.Errorf("%v: Read = %v, %d, %v; want nil, 0, EOF", reads, b != nil, n, err)
				}
				break
			}
			if n == 0 {
				t.Fatalf("%v: a Read of no bytes", reads)
			}
			for i := range n {
				if b[i] != byte(got+i) {
					t.Fatalf("%v: byte %d is wrong", reads, got+i)
				}
			}
			got += n
			b.Free()
		}
		if got != want {
			t.Errorf("%v: got %d bytes; want %d", reads, got, want)
		}
	}
}

// A piece that fits a buffer is read in one step, not in a small part and a large one.
func TestAStreamSocketReadsAWholePieceInOneStep(t *testing.T) {
	for _, size := range []int{1, 511, 512, 513, 1400, 16 << 10, 64 << 10} {
		s := newNetSocket(&scripted{reads: []int{size, 7}})
		for _, want := range []int{size, 7} {
			b, n, err := s.Read()
			if err != nil || n != want {
				t.Errorf("with pieces of %d and 7 bytes Read = %d, %v; want %d", size, n, err, want)
				break
			}
			b.Free()
		}
	}
}

func TestAStreamSocketWritesOnlyInWrite(t *testing.T) {
	c := &scripted{reads: []int{0}}
	s := newNetSocket(c)
	if b, n, err := s.Read(); b != nil || n != 0 || err != io.ErrNoProgress {
		t.Errorf("a Read of no bytes = %v, %d, %v; want no progress", b != nil, n, err)
	}
	if n, err := s.TryWrite([]byte("x")); n != 0 || err != nil || c.written != 0 {
		t.Errorf("TryWrite = %d, %v, %d written; want nothing", n, err, c.written)
	}
	if n, err := s.Write([]byte("x")); n != 1 || err != nil || c.written != 1 {
		t.Errorf("Write = %d, %v, %d written; want 1", n, err, c.written)
	}
	if err := s.CloseWrite(); err != nil {
		t.Errorf("CloseWrite without support of the connection = %v; want nil", err)
	}
}

func TestClosingAPipeWakesItsReaderAndWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		s := newNetSocket(theirs)
		ended := make(chan error, 2)
		go func() { _, _, err := s.Read(); ended <- err }()
		go func() { _, err := s.Write([]byte("x")); ended <- err }()
		synctest.Wait()
		s.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("ended with %v; want closed", err)
			}
		}
		mine.Close()
	})
}

// selfSigned returns a self-signed certificate.
func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func tlsPair(t testing.TB, cert tls.Certificate, below, above net.Conn) (Socket, *tls.Conn) {
	t.Helper()
	srv := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{cert}})
	peer := tls.Client(above, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- srv.Handshake() }()
	if err := peer.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return newNetSocket(srv), peer
}

func TestASocketOverTLSReadsAndWrites(t *testing.T) {
	raw, peerTCP := loopback(t)
	s, peer := tlsPair(t, selfSigned(t), raw.tcp, peerTCP)
	if _, ok := s.(*streamSocket); !ok {
		t.Fatalf("the socket of a TLS connection is a %T, which sends without encryption", s)
	}
	for _, size := range []int{1, 511, 512, 513, 1024, 16 << 10, 100_000} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		go peer.Write(want)
		var got []byte
		for len(got) < size {
			b, n, err := s.Read()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
			b.Free()
		}
		if !bytes.Equal(got, want) {
			t.Errorf("wrong bytes; want the %d that were sent", size)
		}
		if n, err := s.TryWrite(want); n != 0 || err != nil {
			t.Errorf("TryWrite = %d, %v; want 0", n, err)
		}
		go s.Write(want)
		back := make([]byte, size)
		if _, err := io.ReadFull(peer, back); err != nil || !bytes.Equal(back, want) {
			t.Errorf("the peer reads %v", err)
		}
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after CloseWrite the peer reads %v; want EOF", err)
	}
	peer.Write([]byte("x"))
	if b, n, err := s.Read(); err != nil || n != 1 {
		t.Errorf("after CloseWrite Read = %d, %v; want the peer's data", n, err)
	} else {
		b.Free()
	}
	peer.Close()
	if _, _, err := s.Read(); err != io.EOF {
		t.Errorf("at the end Read = %v; want EOF", err)
	}
}

// Close must not wait for a TLS peer that does not read: the clock's task, which serves
// all connections, calls it.
func TestClosingATLSConnectionDoesNotWaitForItsPeer(t *testing.T) {
	cert := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		below, above := net.Pipe()
		s, peer := tlsPair(t, cert, below, above)
		began := time.Now()
		s.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("Close took %v with a peer that does not read", took)
		}
		peer.NetConn().Close()
	})
}

// An idle TLS connection must not keep 64 KiB after a message that was longer than the
// small read. Most messages are.
func TestAStreamSocketThatWaitsHasOnlyItsSmallBuffer(t *testing.T) {
	for _, message := range []int{100, 511, 512, 513, 600, 1024, 1025, 1500, 2048, 16 << 10, 64 << 10, 87_500, 256 << 10} {
		c := &scripted{reads: []int{message}}
		s := newNetSocket(c)
		for {
			b, _, err := s.Read()
			if err != nil {
				break
			}
			b.Free()
		}
		for _, size := range c.waits {
			if size > 512 {
				t.Errorf("with a message of %d bytes the connection waits with a buffer of %d; want its own 512", message, size)
			}
		}
	}
}
