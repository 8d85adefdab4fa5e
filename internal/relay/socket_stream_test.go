package relay

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

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
		s := start1(NewSocket(c))
		got := 0
		for {
			p, err := s.read()
			if err != nil {
				if err != io.EOF || len(p) != 0 {
					t.Errorf("%v: read = %d bytes, %v; want 0, EOF", reads, len(p), err)
				}
				break
			}
			for i := range p {
				if p[i] != byte(got+i) {
					t.Fatalf("%v: byte %d is wrong", reads, got+i)
				}
			}
			got += len(p)
		}
		if got != want {
			t.Errorf("%v: got %d bytes; want %d", reads, got, want)
		}
	}
}

// A piece that fits a buffer is read in one step, not in a small part and a large one.
func TestAStreamSocketReadsAWholePieceInOneStep(t *testing.T) {
	for _, size := range []int{1, 511, 512, 513, 1400, 16 << 10, 64 << 10} {
		s := start1(NewSocket(&scripted{reads: []int{size, 7}}))
		for _, want := range []int{size, 7} {
			p, err := s.read()
			if err != nil || len(p) != want {
				t.Errorf("with pieces of %d and 7 bytes read = %d, %v; want %d", size, len(p), err, want)
				break
			}
		}
	}
}

func TestAStreamSocketReportsAReadOfNothing(t *testing.T) {
	s := start1(NewSocket(&scripted{reads: []int{0}}))
	if p, err := s.read(); len(p) != 0 || err != io.ErrNoProgress {
		t.Errorf("a read of no bytes = %d, %v; want no progress", len(p), err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Errorf("CloseWrite without support of the connection = %v; want nil", err)
	}
}

// A stream socket reports bytes only once they are written: until then the write timeout
// runs, and they are charged.
func TestAStreamSocketReportsWhatIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		s := start1(NewSocket(theirs))
		want := numbered(1000)
		if n, err := s.TryWrite(want); n != 0 || err != nil {
			t.Errorf("TryWrite = %d, %v; want 0: the peer does not read", n, err)
		}
		got := make([]byte, 1000)
		io.ReadFull(mine, got[:400])
		synctest.Wait()
		if n, err := s.TryWrite(want); n != 0 || err != nil {
			t.Errorf("TryWrite = %d, %v; want 0: the write is not complete", n, err)
		}
		io.ReadFull(mine, got[400:])
		<-s.writable
		if n, err := s.TryWrite(want); n != 1000 || err != nil || !bytes.Equal(got, want) {
			t.Errorf("TryWrite = %d, %v, the peer has the bytes: %t; want 1000, nil, true", n, err, bytes.Equal(got, want))
		}
		s.Close()
		mine.Close()
	})
}

func TestClosingAPipeEndsItsGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		s := start1(NewSocket(theirs))
		s.TryWrite([]byte("x"))
		synctest.Wait()
		s.Close()
		mine.Close()
	})
}

// An idle connection must not keep 64 KiB after a message that was longer than the
// small read. Most messages are.
func TestAStreamSocketThatWaitsHasOnlyItsSmallBuffer(t *testing.T) {
	for _, message := range []int{100, 511, 512, 513, 600, 1024, 1025, 1500, 2048, 16 << 10, 64 << 10, 87_500, 256 << 10} {
		c := &scripted{reads: []int{message}}
		s := start1(NewSocket(c))
		for {
			if _, err := s.read(); err != nil {
				break
			}
		}
		for _, size := range c.waits {
			if size > 512 {
				t.Errorf("with a message of %d bytes the connection waits with a buffer of %d; want its own 512", message, size)
			}
		}
	}
}
