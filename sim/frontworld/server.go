package frontworld

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

const (
	serverAddress = "server"

	// hello begins a TLS record, and no request.
	hello = 0x16

	// The last byte of each message of a client.
	ofFlight  = 'f'
	ofUpgrade = 'u'
	ofGet     = 'g'

	// The answer to an upgrade in a drain, and the last byte to a connection that a drain
	// closes.
	ofRefusal = 'r'
	ofLeave   = 'l'
)

// pageTime is how long the private listener takes to answer a request.
const pageTime = 300 * time.Millisecond

// listener hands the connections of the simulated network to the front.
type listener struct{ w *instance }

func (l listener) Accept() (net.Conn, error) {
	if l.w.acceptFails.Fails() {
		l.w.acceptFailed()
		return nil, noDescriptor{}
	}
	nc, err := l.w.port.Accept()
	if err != nil {
		return nil, err
	}
	l.w.networkAccepts()
	s := l.w.arrive(nc.(*engine.Conn))
	if s == nil {
		nc.Close()
		l.w.acceptFailed()
		return nil, errTooMany
	}
	return &conn{Conn: nc, w: l.w, session: s, writeFails: l.w.e.NewFaultPoint(faultAnswer, s.from.String())}, nil
}

// noDescriptor is the error of an Accept that may succeed later.
type noDescriptor struct{}

func (noDescriptor) Error() string   { return "too many open files" }
func (noDescriptor) Timeout() bool   { return false }
func (noDescriptor) Temporary() bool { return true }

// errTooMany ends the accepting of a run with too many connections.
var errTooMany = errors.New("the run has too many connections")

func (l listener) Close() error { return l.w.port.Close() }

func (listener) Addr() net.Addr { return &net.TCPAddr{} }

// conn is the server's end of a connection, below the front.
type conn struct {
	net.Conn
	w       *instance
	session *session

	writeFails *engine.FaultPoint
}

// Write fails as a connection does that its network has reset.
func (c *conn) Write(b []byte) (int, error) {
	if c.writeFails.Fails() {
		c.w.isReset(c.session)
		c.Conn.Close()
		return 0, engine.ErrReset
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.w.e.Intn(4) == 0 { // the kernel has handed over the bytes, and the caller does not run yet
		c.w.e.Sleep(time.Millisecond)
	}
	c.w.read(c.session, n > 0 && err == nil)
	return n, err
}

func (c *conn) Close() error {
	c.w.closed(c.session)
	return c.Conn.Close()
}

// RemoteAddr returns the address as the front expects it.
func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.session.from, 1))
}

// accept is the server's accept loop. It ends with the listener.
func (w *instance) accept() {
	for {
		nc, err := w.listener.Accept()
		if errors.Is(err, noDescriptor{}) { // as net/http does
			w.e.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			w.acceptEnds()
			w.daemon.server.acceptEnds()
			return
		}
		s := w.sessionOf(nc)
		w.accepted(s)
		i := w.daemon.server.add(nc)
		w.e.Go("serve", func() {
			w.serve(nc, s, i)
			w.finished(s)
		})
	}
}

// sessionOf returns the session of a connection that the front has returned.
func (w *instance) sessionOf(nc net.Conn) *session {
	below := nc.(interface{ NetConn() net.Conn }).NetConn()
	return below.(*conn).session
}

// server is the state of net/http and crypto/tls for one connection.
type server struct {
	w  *instance
	nc net.Conn
	s  *session

	buf  [4 << 10]byte
	rest []byte // of buf: bytes that have been read and not used
}

// serve does to a connection what net/http and crypto/tls do.
func (w *instance) serve(nc net.Conn, s *session, i int) {
	http1 := &w.daemon.server
	defer func() {
		nc.Close()
		if !w.upgraded(s) { // what the relay does with an upgraded one net/http does not know
			http1.remove(i)
			w.state(nc, s, http.StateClosed)
		}
	}()
	w.state(nc, s, http.StateNew)
	_ = nc.SetReadDeadline(w.e.Time().Add(time.Minute))
	v := &server{w: w, nc: nc, s: s}
	if w.tls {
		for range 2 {
			if last, ok := v.message(); !ok || last != ofFlight {
				return
			}
			if _, err := nc.Write([]byte{ofFlight}); err != nil {
				return
			}
		}
		_ = nc.SetReadDeadline(time.Time{})
	}
	for {
		last, ok := v.message()
		if !ok {
			return
		}
		w.state(nc, s, http.StateActive)
		http1.set(i, false)
		w.asks(s)
		if w.private {
			w.e.Sleep(pageTime)
		}
		if last == ofUpgrade && !w.private {
			w.upgrade(nc, s, i)
			return
		}
		_, err := nc.Write([]byte{ofGet})
		w.answers(s, err)
		if err != nil || !w.private {
			return
		}
		w.state(nc, s, http.StateIdle)
		http1.set(i, true)
		_ = nc.SetReadDeadline(w.e.Time().Add(20 * time.Second))
	}
}

// message reads one message and returns its last byte. It computes after each Read that
// gives a turn. Bytes that came with the message before need no Read, and no turn.
func (v *server) message() (last byte, ok bool) {
	for {
		for i, last := range v.rest {
			switch last {
			case ofFlight, ofUpgrade, ofGet:
				v.rest = v.rest[i+1:]
				return last, true
			}
		}
		v.w.reads(v.s, true)
		n, err := v.nc.Read(v.buf[:])
		v.w.reads(v.s, false)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			v.w.timedOut(v.s)
		}
		if err != nil {
			return 0, false
		}
		v.rest = v.buf[:n]
		if v.w.tls && v.w.flights(v.s) == 0 && v.buf[0] != hello {
			return 0, false // crypto/tls refuses such a record unparsed
		}
		if v.w.needsTurn(v.s, v.rest) {
			v.w.compute(v.s)
		}
	}
}

// computeTime is how long a handshake computes.
const computeTime = 2 * time.Millisecond

// compute is work with the processor, for which the connection has a turn.
func (w *instance) compute(s *session) {
	w.computes(s, true)
	w.e.Sleep(computeTime)
	w.computes(s, false)
}

// upgrade answers a request for an upgrade, and serves the connection until its end. The upgrade
// may have to wait for other nodes before.
func (w *instance) upgrade(nc net.Conn, s *session, i int) {
	if w.nodesAnswerIn > 0 {
		w.waits(s)
		w.front.Waits(w.front.Server.ConnContext(context.Background(), nc))
		w.waitsSurely(s)
		w.e.Sleep(w.nodesAnswerIn)
	}
	if !w.daemon.held.admit() {
		_, err := nc.Write([]byte{ofRefusal})
		w.answers(s, err)
		return
	}
	w.daemon.server.remove(i)
	w.state(nc, s, http.StateHijacked)
	_, err := nc.Write([]byte{ofUpgrade})
	w.answers(s, err)
	w.daemon.held.serve(nc, s)
}

// state tells the front of a new state, as net/http does.
func (w *instance) state(nc net.Conn, s *session, to http.ConnState) {
	w.begins(s, to)
	if w.private {
		w.front.PrivateState(nc, to)
		if to == http.StateActive { // no request here has content
			w.front.PrivateAnswering(nc, true)
		}
	} else {
		w.front.Server.ConnState(nc, to)
	}
	w.ends(s, to)
}
