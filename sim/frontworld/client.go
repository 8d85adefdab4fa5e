package frontworld

import (
	"fmt"
	"net"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// client is an actor that opens connections.
type client struct {
	w    *instance
	port *engine.Port

	// Used only in functions that are hidden from the race detector: the end of a run
	// closes them, too.
	conns [maxConns]net.Conn // that it has not closed
	n     int
	added engine.Edge // before the end closes them
}

// maxConns bounds the open connections of a client.
const maxConns = 40

//go:norace
func (c *client) add(nc net.Conn) {
	c.conns[c.n] = nc
	c.n++
	c.added.Release()
}

// newest returns the newest connection, or nil.
//
//go:norace
func (c *client) newest() net.Conn {
	if c.n == 0 {
		return nil
	}
	return c.conns[c.n-1]
}

// remove forgets the newest connection and returns it, or nil.
//
//go:norace
func (c *client) remove() net.Conn {
	nc := c.newest()
	if nc != nil {
		c.n--
	}
	return nc
}

//go:norace
func (c *client) full() bool { return c.n == maxConns }

// address returns the address of the client with that index. Three in four share
// networks: the IPv6 clients are in one /56, the IPv4 clients have two addresses.
func address(i int) string {
	if i%4 == 3 {
		return fmt.Sprintf("2001:db8:0:%d::1", i)
	}
	return fmt.Sprint("192.0.2.", 1+i%2)
}

func (w *instance) newClient(i int, name string) *client {
	p, err := w.network.Listen(address(i) + "#" + name)
	if err != nil {
		panic(err)
	}
	return &client{w: w, port: p}
}

// do carries out one operation. All but dial are of the newest connection.
func (c *client) do(op engine.Op) {
	if op.Verb == doDial {
		if c.full() {
			return
		}
		if nc, err := c.port.Dial(serverAddress); err == nil {
			c.add(nc)
		}
		return
	}
	nc := c.newest()
	switch {
	case nc == nil:
	case op.Verb == doHangUp:
		c.remove().Close()
	default:
		_, _ = nc.Write(message(op)) // the server may have closed the connection
	}
}

// message returns the bytes of an operation.
func message(op engine.Op) []byte {
	switch op.Verb {
	case doHello:
		return []byte{hello, ofFlight}
	case doFinish:
		return []byte{hello, ofFlight}
	case doUpgrade:
		return []byte{'A', ofUpgrade}
	case doGet:
		return []byte{'A', ofGet}
	}
	b := make([]byte, op.Arg)
	for i := range b {
		b[i] = 'A'
	}
	return b
}

func (c *client) hangUp() {
	c.added.Acquire()
	for nc := c.remove(); nc != nil; nc = c.remove() {
		nc.Close()
	}
}

// Idle implements engine.Instance.
func (w *instance) Idle() bool {
	w.checkWaiting()
	w.checkStopping()
	w.checkWatchdog()
	if w.e.ActorsDone() && w.takeEnd() {
		w.e.Go("end", w.end)
	}
	return !w.over()
}

// end is the last part of every run. While the connections of the run are still there, a
// client of another network connects and must be served. Then all clients hang up, the
// listener closes, and everything must end.
func (w *instance) end() {
	w.e.Phase("nothing fails any more, and a newcomer of another network connects")
	w.e.EndFaults()
	w.e.Sleep(evictAfter + 10*time.Millisecond)
	if !w.stopped() {
		w.newcomer()
	}
	w.e.Sleep(time.Minute)
	w.checkReloads()
	w.e.Phase("all clients hang up, and the process drains")
	for _, c := range w.clients {
		if c != nil {
			c.hangUp()
		}
	}
	if !w.stopped() {
		w.signal()
	}
	w.e.Sleep(time.Hour)
	w.checkEnd()
	w.setOver()
}

// newcomer checks that a client of a network without connections is served.
func (w *instance) newcomer() {
	p, err := w.network.Listen("203.0.113.9#newcomer")
	if err != nil {
		panic(err)
	}
	nc, err := p.Dial(serverAddress)
	if err != nil {
		w.e.Fail("newcomer", "a client of a network without connections cannot connect: %v", err)
		return
	}
	request, want := doUpgrade, 1
	if w.private {
		request = doGet
	}
	if w.tls {
		_, _ = nc.Write(message(engine.Op{Verb: doHello}))
		_, _ = nc.Write(message(engine.Op{Verb: doFinish}))
		want += 2
	}
	_, _ = nc.Write(message(engine.Op{Verb: request}))
	_ = nc.SetReadDeadline(w.e.Time().Add(requestTime))
	var b [8]byte
	for got := 0; got < want; {
		n, err := nc.Read(b[:])
		if got += n; err != nil {
			w.e.Fail("newcomer", "a client of a network without connections gets %d of %d answers: %v", got, want, err)
			return
		}
	}
	nc.Close()
}

// closeListener closes the listener.
func (w *instance) closeListener() {
	w.listener.Close()
	w.listenerClosed()
}
