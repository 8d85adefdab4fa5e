package relayworld

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Push wakes: binaries send them among other envelopes. The simulated push
// service accepts every second one and checks that the relay passes on exactly
// those that were sent.

// A token contains the connection, the number of the wake, and whether push
// accepts it.
const (
	tokenTaken   = "yes "
	tokenRefused = "no "
	tokenPhone   = "phone" // of an envelope with a conn_id, which is not a wake
)

var errNoWake = errors.New("sim: push refuses every second wake")

// wake returns a connection's next wake. The mutex must be held.
func (c *Client) wake() []byte {
	c.wakes++
	kind := tokenRefused
	if c.wakes%2 == 0 {
		kind = tokenTaken
	}
	return []byte(`{"push_wake":{"platform":"fcm","token":"` + kind + strconv.Itoa(c.Number) + " " + strconv.Itoa(c.wakes) + `"}}`)
}

// noWake returns an envelope for an unknown phone that also has a push_wake.
func noWake() []byte {
	b := appendEnvelope(nil, maxClients+1, []byte(`1`), 0)
	return append(b[:len(b)-1], `,"push_wake":{"platform":"fcm","token":"`+tokenPhone+`"}}`...)
}

// pushed is the push service of one process. It runs on a task of the relay, so
// it is hidden from the race detector.
//
//go:norace
func (w *Instance) pushed(d *Node, id wire.ServerID, wake wire.PushWake) error {
	if wake.Token == tokenPhone {
		w.Engine.Fail("wake", "an envelope with a conn_id was taken for a wake")
		return nil
	}
	taken := strings.HasPrefix(wake.Token, tokenTaken)
	conn, which, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(wake.Token, tokenTaken), tokenRefused), " ")
	num, _ := strconv.Atoi(conn)
	n, _ := strconv.Atoi(which)
	p, ok := w.connInfo(num)
	switch c := w.Clients[min(max(num, 0), maxClients-1)].Load(); {
	case !ok || c == nil || wake.Platform != "fcm":
		w.Engine.Fail("wake", "not as a binary asked for it")
	case p.phone || p.node != d || Servers[p.server] != string(id):
		w.Engine.Fail("wake", "handed on for another server-id")
	case n != c.woken+1 || n > c.wakes:
		w.Engine.Fail("wake", "a wake is lost, repeated or out of order")
	default:
		c.woken = n
	}
	if taken {
		return nil
	}
	d.refusedWakes++
	return errNoWake
}

// judgeRefusedWakes compares the relay's counter of refused wakes with those
// that push refused.
func (w *Instance) judgeRefusedWakes(d *Node, counted float64) {
	if counted != float64(d.refusedWakes) {
		w.Engine.Fail("wake", "the relay counts %v wakes that were refused; push refused %d", counted, d.refusedWakes)
	}
}
