package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// actors returns all actors of a soak. fleetSize is the number of long-lived
// binaries.
func actors(fleetSize int) []actor {
	return []actor{
		{"stay", fleetSize, 2 * time.Second, (*soak).stay},
		{"visit", 4, 300 * time.Millisecond, (*soak).visit},
		{"return", 6, 2 * time.Second, (*soak).comeBack},
		{"abandon", 4, time.Second, (*soak).abandon},
		{"stall", 2, 5 * time.Second, (*soak).stall},
		{"take over", 2, 5 * time.Second, (*soak).takeOver},
		{"claim in vain", 1, 2 * time.Second, (*soak).claimInVain},
		{"bad frame", 2, 300 * time.Millisecond, (*soak).badFrame},
		{"half a request", 3, time.Second, (*soak).halfRequest},
		{"nobody there", 1, 300 * time.Millisecond, (*soak).noBinary},
	}
}

// stay is a binary with eight phones that make round trips for one to three
// minutes.
func (s *soak) stay(ctx context.Context, rng *rand.Rand) error {
	b, all, err := s.openWithPhones(newID(rng), 8)
	if err != nil {
		return err
	}
	defer b.close()
	defer closePhones(all)
	for end := time.Now().Add(time.Minute + time.Duration(rng.Int64N(int64(2*time.Minute)))); time.Now().Before(end) && ctx.Err() == nil; {
		if err := all[rng.IntN(len(all))].roundTrip(); err != nil {
			return err
		}
		wait(ctx, 150*time.Millisecond+time.Duration(rng.Int64N(int64(200*time.Millisecond))))
		if len(all) > 1 && rng.IntN(50) == 0 { // a phone loses its network
			i := rng.IntN(len(all))
			_ = all[i].conn.(tcp).SetLinger(0)
			all[i].conn.Close()
			all = append(all[:i], all[i+1:]...)
		}
		for _, ph := range all { // answer pings
			if err := ph.answerPings(); err != nil {
				return err
			}
		}
	}
	return nil
}

// visit is a binary and a phone that make one round trip.
func (s *soak) visit(_ context.Context, rng *rand.Rand) error {
	b, all, err := s.openWithPhones(newID(rng), 1)
	if err != nil {
		return err
	}
	defer b.close()
	all[0].bye()
	return nil
}

// comeBack is a binary that disconnects and reclaims its slot within the grace
// period. The relay closes its phones with 4404, and they connect again.
func (s *soak) comeBack(ctx context.Context, rng *rand.Rand) error {
	id := newID(rng)
	b, all, err := s.openWithPhones(id, 4)
	if err != nil {
		return err
	}
	defer closePhones(all)
	if rng.IntN(2) == 0 {
		_ = b.conn.(tcp).SetLinger(0)
	}
	b.close()
	wait(ctx, time.Duration(rng.Int64N(int64(5*time.Second))))
	again, err := s.open(id)
	if err != nil {
		return err
	}
	defer again.close()
	for _, ph := range all {
		if err := ph.waitClose(4404); err != nil {
			return err
		}
	}
	back, err := again.join(4)
	closePhones(back)
	return err
}

// abandon is a binary that does not reconnect. Its phones are closed at the end
// of the grace period.
func (s *soak) abandon(_ context.Context, rng *rand.Rand) error {
	b, all, err := s.openWithPhones(newID(rng), 2)
	if err != nil {
		return err
	}
	b.close()
	defer closePhones(all)
	for _, ph := range all {
		if err := ph.waitClose(1000); err != nil {
			return err
		}
	}
	return nil
}

// stall is a phone that does not read. The relay closes it and notifies its
// binary.
func (s *soak) stall(ctx context.Context, rng *rand.Rand) error {
	id := newID(rng)
	b, all, err := s.openWithPhones(id, 2)
	if err != nil {
		return err
	}
	defer b.close()
	defer closePhones(all)
	b.mu.Lock()
	victim := b.ids[0]
	b.mu.Unlock()
	_ = all[0].conn.(tcp).SetReadBuffer(4096)
	envelope := []byte(envelopeHead + victim + envelopeMid + `"` + strings.Repeat("x", 64<<10) + `"}`)
	for range 400 { // 25 MiB: more than the outbox of 4 MiB and the kernels' buffers
		if ctx.Err() != nil {
			return nil
		}
		if err := b.peer.send(envelope); err != nil {
			return err
		}
		wait(ctx, 2*time.Millisecond)
	}
	if err := all[1].roundTrip(); err != nil {
		return fmt.Errorf("the other phone: %w", err)
	}
	_ = all[0].conn.SetReadDeadline(time.Now().Add(time.Minute))
	for { // the phone reads the close frame, or the socket was reset
		switch _, err := all[0].next(); {
		case err == nil:
		case isClosed(err, 1011) || errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset"):
			return nil
		default:
			return fmt.Errorf("a phone that does not read ends with %w; want 1011", err)
		}
	}
}

// takeOver is a binary that has stopped answering pings, and a second binary
// that claims its id.
func (s *soak) takeOver(_ context.Context, rng *rand.Rand) error {
	id := newID(rng)
	old, err := s.to.dial("/v1/server", id)
	if err != nil {
		return err
	}
	defer old.conn.Close()
	ph, err := s.to.dial("/v1/client", id)
	if err != nil {
		return err
	}
	defer ph.conn.Close()
	if err := ph.send([]byte(`"hello"`)); err != nil { // the phone then has joined or is closed with 4404
		return err
	}
	_ = ph.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := ph.next(); isClosed(err, 4404) {
		return nil // the phone joined before its binary had its slot
	}
	b, err := s.open(id)
	if err != nil {
		return err
	}
	defer b.close()
	if err := ph.waitClose(4404); err != nil {
		return fmt.Errorf("a phone of the old binary: %w", err)
	}
	all, err := b.join(1)
	closePhones(all)
	if err != nil {
		return err
	}
	return old.waitClose(1011)
}

// claimInVain is a second binary that claims the id of a live one.
func (s *soak) claimInVain(_ context.Context, rng *rand.Rand) error {
	id := newID(rng)
	b, all, err := s.openWithPhones(id, 1) // the binary then holds its slot
	if err != nil {
		return err
	}
	defer b.close()
	closePhones(all)
	rival, err := s.to.dial("/v1/server", id)
	if err != nil {
		return err
	}
	defer rival.conn.Close()
	return rival.waitClose(4409)
}

// badFrame is a phone that violates the protocol or a limit.
func (s *soak) badFrame(_ context.Context, rng *rand.Rand) error {
	b, all, err := s.openWithPhones(newID(rng), 1)
	if err != nil {
		return err
	}
	defer b.close()
	defer closePhones(all)
	many := func(op byte) (out []byte) {
		for range 2000 {
			out = appendMasked(out, op, []byte("x"))
		}
		return out
	}
	empties := []byte{1, 0x80, 0, 0, 0, 0}
	for range 2000 {
		empties = append(empties, 0, 0x80, 0, 0, 0, 0)
	}
	bad := []struct {
		bytes []byte
		code  int
	}{
		{appendMasked(nil, opText, []byte(`{"a":`)), 1007},
		{appendMasked(nil, opText, []byte("\"\xff\"")), 1007},
		{appendMasked(nil, opText, make([]byte, 256<<10+1)), 1009},
		{[]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff"), 1009},
		{[]byte("\x81\x011"), 1002},
		{[]byte("\xc1\x80\x00\x00\x00\x00"), 1002},
		{[]byte("\x83\x80\x00\x00\x00\x00"), 1002},
		{many(opPing), 1008},
		{many(opPong), 1008},
		{empties, 1008},
		{appendMasked(nil, opClose, []byte{4242 >> 8, 4242 & 0xff}), 4242},
	}
	one := bad[rng.IntN(len(bad))]
	go all[0].conn.Write(one.bytes) // the relay may close before it has read everything
	if err := all[0].waitClose(one.code); err != nil {
		return fmt.Errorf("% x…: %w", one.bytes[:min(8, len(one.bytes))], err)
	}
	return nil
}

// halfRequest is a connection that sends an incomplete request.
func (s *soak) halfRequest(_ context.Context, rng *rand.Rand) error {
	c, err := net.Dial("tcp", s.to.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	halves := []string{"", "GET /v1/server HTTP/1.1\r\nHost: x\r\nX-", "\x16\x03\x01\x02\x00\x01", "PROXY TCP4 1.2.3.4"}
	if _, err := io.WriteString(c, halves[rng.IntN(len(halves))]); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		return fmt.Errorf("half a request ends with %w; want to be cut", err)
	}
	return nil
}

// noBinary is a phone without a binary.
func (s *soak) noBinary(_ context.Context, rng *rand.Rand) error {
	p, err := s.to.dial("/v1/client", newID(rng))
	if err != nil {
		return err
	}
	defer p.conn.Close()
	return p.waitClose(4404)
}

// slot is an echoing binary, with the fleet that its phones belong to.
type slot struct {
	*loadBinary
	id    string
	fleet *fleet
	ended chan error
}

// tcp has the socket options that the soak needs. quickConn and net.TCPConn
// implement it.
type tcp interface {
	SetLinger(seconds int) error
	SetReadBuffer(bytes int) error
}

func newID(rng *rand.Rand) string { return fmt.Sprintf("soak-%016x%016x", rng.Uint64(), rng.Uint64()) }

// open connects an echoing binary.
func (s *soak) open(id string) (*slot, error) {
	p, err := s.to.dial("/v1/server", id)
	if err != nil {
		return nil, err
	}
	sl := &slot{id: id, loadBinary: &loadBinary{peer: p, ids: make(map[int]string)}, fleet: &fleet{shape: shape{size: 200, flight: 1}, to: s.to}, ended: make(chan error, 1)}
	go func() { sl.ended <- sl.echo() }()
	return sl, nil
}

// openWithPhones connects a binary and n phones. On an error it closes all of
// them.
func (s *soak) openWithPhones(id string, n int) (*slot, []*phone, error) {
	b, err := s.open(id)
	if err != nil {
		return nil, nil, err
	}
	all, err := b.join(n)
	if err != nil {
		b.close()
		return nil, nil, err
	}
	return b, all, nil
}

// join connects n phones. Each has made one round trip.
func (sl *slot) join(n int) ([]*phone, error) {
	var all []*phone
	for i := range n {
		ph, err := sl.fleet.phone(sl.id, i)
		if err != nil {
			closePhones(all)
			return nil, fmt.Errorf("phone %d: %w", i, err)
		}
		all = append(all, ph)
	}
	return all, nil
}

func closePhones(all []*phone) {
	for _, ph := range all {
		ph.conn.Close()
	}
}

func (sl *slot) close() {
	sl.conn.Close()
	<-sl.ended
}

// roundTrip makes one round trip.
func (ph *phone) roundTrip() error {
	_ = ph.conn.SetReadDeadline(time.Now().Add(time.Minute))
	if err := ph.send(ph.maker.frame(ph.got)); err != nil {
		return err
	}
	b, err := ph.next()
	if err != nil {
		return err
	}
	err = ph.checker.check(b, ph.got)
	ph.got++
	return err
}

// waitClose waits until the relay closes p. It returns an error if the code
// differs.
func (p *peer) waitClose(code int) error {
	_ = p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		_, err := p.next()
		switch {
		case isClosed(err, code):
			return nil
		case err != nil:
			return fmt.Errorf("ends with %w; want close %d", err, code)
		}
	}
}

// answerPings answers the pings that have arrived, without blocking. It returns
// an error if another frame has arrived.
func (ph *phone) answerPings() error {
	_ = ph.conn.SetReadDeadline(time.Now().Add(time.Microsecond))
	err := ph.fill()
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		err = nil
	}
	if err != nil {
		return err
	}
	if b, ok, err := ph.take(); err != nil || ok {
		return fmt.Errorf("got %.60q, %v; want nothing", b, err)
	}
	return nil
}
