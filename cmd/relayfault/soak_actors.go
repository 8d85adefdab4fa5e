package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// actors returns all actors of a soak. fleetSize is the number of long-lived
// binaries.
func actors(fleetSize int) []actor {
	return []actor{
		{"stay", fleetSize, 2 * time.Second, (*round).stay},
		{"visit", 4, 300 * time.Millisecond, (*round).visit},
		{"return", 6, 2 * time.Second, (*round).comeBack},
		{"abandon", 4, time.Second, (*round).abandon},
		{"stall", 2, 5 * time.Second, (*round).stall},
		{"take over", 2, 5 * time.Second, (*round).takeOver},
		{"claim in vain", 1, 2 * time.Second, (*round).claimInVain},
		{"bad frame", 2, 300 * time.Millisecond, (*round).badFrame},
		{"half a request", 3, time.Second, (*round).halfRequest},
		{"no binary", 1, 300 * time.Millisecond, (*round).noBinary},
	}
}

// stay is a binary with eight phones that make round trips for one to three
// minutes.
func (s *round) stay(ctx context.Context) error {
	b, err := s.open(newID(), 8)
	if err != nil {
		return err
	}
	defer b.close()
	for end := time.Now().Add(time.Minute + rand.N(2*time.Minute)); time.Now().Before(end) && ctx.Err() == nil; {
		if err := b.phones[rand.IntN(len(b.phones))].RoundTrip(); err != nil {
			return err
		}
		load.Wait(ctx, 150*time.Millisecond+rand.N(200*time.Millisecond))
		if len(b.phones) > 1 && rand.IntN(50) == 0 { // a phone loses its network
			i := rand.IntN(len(b.phones))
			b.phones[i].Reset()
			b.phones = slices.Delete(b.phones, i, i+1)
		}
		for _, ph := range b.phones {
			if err := answerPings(ph); err != nil {
				return err
			}
		}
	}
	return nil
}

// visit is a binary and a phone that make one round trip.
func (s *round) visit(context.Context) error {
	b, err := s.open(newID(), 1)
	if err != nil {
		return err
	}
	defer b.close()
	b.phones[0].Bye()
	return nil
}

// comeBack is a binary that disconnects and reclaims its slot within the grace
// period. The relay closes its phones with 4404, and they connect again.
func (s *round) comeBack(ctx context.Context) error {
	id := newID()
	b, err := s.open(id, 4)
	if err != nil {
		return err
	}
	defer b.close()
	if rand.IntN(2) == 0 {
		b.Reset()
	}
	b.disconnect()
	load.Wait(ctx, rand.N(5*time.Second))
	again, err := s.open(id, 0)
	if err != nil {
		return err
	}
	defer again.close()
	for _, ph := range b.phones {
		if err := waitClose(ph.Conn, 4404); err != nil {
			return err
		}
	}
	return again.join(4)
}

// abandon is a binary that does not reconnect. Its phones are closed at the end
// of the grace period.
func (s *round) abandon(context.Context) error {
	b, err := s.open(newID(), 2)
	if err != nil {
		return err
	}
	defer b.close()
	b.disconnect()
	for _, ph := range b.phones {
		if err := waitClose(ph.Conn, 1000); err != nil {
			return err
		}
	}
	return nil
}

// stall is a phone that does not read. The relay closes it and notifies its
// binary.
func (s *round) stall(ctx context.Context) error {
	b, err := s.open(newID(), 2)
	if err != nil {
		return err
	}
	defer b.close()
	victim, other := b.phones[0], b.phones[1]
	_ = victim.Conn.Conn.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4096)
	envelope := load.AppendEnvelope(nil, b.ConnID(0), []byte(`"`+strings.Repeat("x", 64<<10)+`"`))
	for range 400 { // 25 MiB: more than the outbox of 4 MiB and the kernels' buffers
		if ctx.Err() != nil {
			return nil
		}
		if err := b.WriteMessage(wstest.Text, envelope); err != nil {
			return err
		}
		load.Wait(ctx, 2*time.Millisecond)
	}
	if err := other.RoundTrip(); err != nil {
		return fmt.Errorf("the other phone: %w", err)
	}
	_ = victim.SetReadDeadline(time.Now().Add(time.Minute))
	for { // the phone reads the close frame, or the socket was reset
		switch _, err := victim.Next(); {
		case err == nil:
		case wstest.IsClose(err, 1011) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "reset"):
			return nil
		default:
			return fmt.Errorf("a phone that does not read ends with %w; want 1011", err)
		}
	}
}

// takeOver is a binary that has stopped answering pings, and a second binary
// that claims its id.
func (s *round) takeOver(context.Context) error {
	id := newID()
	old, err := s.to.Dial("/v1/server", id)
	if err != nil {
		return err
	}
	defer old.Close()
	ph, err := s.to.Dial("/v1/client", id)
	if err != nil {
		return err
	}
	defer ph.Close()
	if err := ph.WriteMessage(wstest.Text, []byte(`"hello"`)); err != nil { // the phone then has joined or is closed with 4404
		return err
	}
	_ = ph.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := ph.Next(); wstest.IsClose(err, 4404) {
		return nil // the phone joined before its binary had its slot
	}
	b, err := s.open(id, 0)
	if err != nil {
		return err
	}
	defer b.close()
	if err := waitClose(ph, 4404); err != nil {
		return fmt.Errorf("a phone of the old binary: %w", err)
	}
	if err := b.join(1); err != nil {
		return err
	}
	return waitClose(old, 1011)
}

// claimInVain is a second binary that claims the id of a live one.
func (s *round) claimInVain(context.Context) error {
	id := newID()
	b, err := s.open(id, 1) // the binary then holds its slot
	if err != nil {
		return err
	}
	defer b.close()
	rival, err := s.to.Dial("/v1/server", id)
	if err != nil {
		return err
	}
	defer rival.Close()
	return waitClose(rival, 4409)
}

// badFrame is a phone that violates the protocol or a limit.
func (s *round) badFrame(context.Context) error {
	b, err := s.open(newID(), 1)
	if err != nil {
		return err
	}
	defer b.close()
	bad := append(wstest.Violations(256<<10), wstest.Violation{
		Name: "a close with a code of its own", Bytes: wstest.AppendFrame(nil, wstest.FIN|wstest.Close, wstest.ClosePayload(4242, "")), Code: 4242})
	one := bad[rand.IntN(len(bad))]
	ph := b.phones[0].Conn
	go ph.Write(one.Bytes) // the relay may close before it has read everything
	if err := waitClose(ph, one.Code); err != nil {
		return fmt.Errorf("%s: %w", one.Name, err)
	}
	return nil
}

// halfRequest is a connection that sends an incomplete request.
func (s *round) halfRequest(context.Context) error {
	c, err := net.Dial("tcp", s.to.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	halves := []string{"", "GET /v1/server HTTP/1.1\r\nHost: x\r\nX-", "\x16\x03\x01\x02\x00\x01", "PROXY TCP4 1.2.3.4"}
	if _, err := io.WriteString(c, halves[rand.IntN(len(halves))]); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		return fmt.Errorf("half a request ends with %w; want to be cut", err)
	}
	return nil
}

// noBinary is a phone without a binary.
func (s *round) noBinary(context.Context) error {
	p, err := s.to.Dial("/v1/client", newID())
	if err != nil {
		return err
	}
	defer p.Close()
	return waitClose(p, 4404)
}

// slot is an echoing binary and its phones.
type slot struct {
	*load.Binary
	id     string
	fleet  *load.Fleet // of the phones
	phones []*load.Phone
	ended  chan struct{} // closed when the binary's connection has ended
}

func newID() string { return fmt.Sprintf("soak-%016x%016x", rand.Uint64(), rand.Uint64()) }

// open connects an echoing binary and n phones. The caller must close the slot.
func (s *round) open(id string, n int) (*slot, error) {
	b, err := s.to.Binary(id)
	if err != nil {
		return nil, err
	}
	sl := &slot{Binary: b, id: id, fleet: load.NewFleet(s.to, load.Shape{Size: 200, Flight: 1}), ended: make(chan struct{})}
	go func() {
		defer close(sl.ended)
		_ = sl.Echo() // the phones notice its end
	}()
	if err := sl.join(n); err != nil {
		sl.close()
		return nil, err
	}
	return sl, nil
}

// join connects n phones. Each has made one round trip.
func (sl *slot) join(n int) error {
	for i := range n {
		ph, err := sl.fleet.Phone(sl.id, i)
		if err != nil {
			return fmt.Errorf("phone %d: %w", i, err)
		}
		sl.phones = append(sl.phones, ph)
	}
	return nil
}

// disconnect closes the binary's connection. The phones stay connected.
func (sl *slot) disconnect() {
	sl.Close()
	<-sl.ended
}

// close closes all connections.
func (sl *slot) close() {
	for _, ph := range sl.phones {
		ph.Close()
	}
	sl.disconnect()
}

// waitClose waits until the relay closes c. It returns an error if the code
// differs.
func waitClose(c *wstest.Conn, code int) error {
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		_, err := c.Next()
		switch {
		case wstest.IsClose(err, code):
			return nil
		case err != nil:
			return fmt.Errorf("ends with %w; want close %d", err, code)
		}
	}
}

// answerPings answers the pings that have arrived, without blocking. It returns
// an error if another frame has arrived.
func answerPings(ph *load.Phone) error {
	_ = ph.SetReadDeadline(time.Now().Add(time.Microsecond))
	err := ph.Fill()
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		err = nil
	}
	if err != nil {
		return err
	}
	if b, ok, err := ph.Take(); err != nil || ok {
		return fmt.Errorf("got %.60q, %v; want nothing", b, err)
	}
	return nil
}
