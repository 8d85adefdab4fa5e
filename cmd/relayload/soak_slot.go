package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// slot is a binary that echoes, and where its phones are.
type slot struct {
	*loadBinary
	id    string
	fleet *fleet
	ended chan error
}

// tcp is what the soak does to a socket below the protocol. Both a quickConn
// and the standard library's connection can.
type tcp interface {
	SetLinger(seconds int) error
	SetReadBuffer(bytes int) error
}

func newID(rng *rand.Rand) string { return fmt.Sprintf("soak-%016x%016x", rng.Uint64(), rng.Uint64()) }

// open makes a binary, and the crowd that its phones are made in.
func (s *soak) open(id string) (*slot, error) {
	p, err := s.to.dial("/v1/server", id)
	if err != nil {
		return nil, err
	}
	sl := &slot{id: id, loadBinary: &loadBinary{peer: p, ids: make(map[int]string)}, fleet: &fleet{shape: shape{size: 200, flight: 1}, to: s.to}, ended: make(chan error, 1)}
	go func() { sl.ended <- sl.echo() }()
	return sl, nil
}

// openWithPhones makes a binary and n phones of it. On error none of them is left.
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

// join makes n phones that have made a round trip each.
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

// roundTrip makes one more round roundTrip.
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

// waitClose waits until the relay waitClose p with code.
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

// answerPings takes what has come without waiting for more. Pings are answered;
// frames there are none.
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
