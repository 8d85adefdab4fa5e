package relay

import (
	"testing"
	"time"
)

// TestReadsOfARawSocketDoNotAllocate covers the wait between two reads, too.
func TestReadsOfARawSocketDoNotAllocate(t *testing.T) {
	skipUnderRace(t)
	mine, peer := tcpPair(t)
	s := start1(newTCPSocket(mine))
	defer s.Close()
	p, one := make([]byte, 100), []byte("x")
	read := func() {
		peer.Write(one)
		for {
			n, _, err := s.TryRead(p)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				return
			}
			<-s.readable
		}
	}
	for range 100 {
		read()
	}
	if n := testing.AllocsPerRun(500, read); n != 0 {
		t.Errorf("%v allocations for a read that waits; want 0", n)
	}
}

// The goroutine of a poller ends with its last socket, and begins again with the next.
func TestAPollerRunsWhileItHasSockets(t *testing.T) {
	running := func() (n int) {
		for _, p := range pollers.all {
			p.mu.Lock()
			if p.running {
				n++
			}
			p.mu.Unlock()
		}
		return n
	}
	for range 3 {
		mine, peer := tcpPair(t)
		s := start1(newTCPSocket(mine))
		peer.Write([]byte("x"))
		s.readFull(t, 1)
		if running() == 0 {
			t.Fatal("no poller runs")
		}
		s.Close()
		for deadline := time.Now().Add(5 * time.Second); running() > 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%d pollers run without a socket", running())
			}
			time.Sleep(time.Millisecond)
		}
	}
}
