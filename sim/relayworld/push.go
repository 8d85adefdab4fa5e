package relayworld

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/history"
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
	c.record(history.Event{Kind: history.Asked})
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

// pushed is the push service of one process. It runs on a task of the relay.
func (w *Instance) pushed(d *Node, id wire.ServerID, wake wire.PushWake) error {
	taken := strings.HasPrefix(wake.Token, tokenTaken)
	conn, which, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(wake.Token, tokenTaken), tokenRefused), " ")
	num, _ := strconv.Atoi(conn) // 0 if the wake is none that a binary asked for
	n, _ := strconv.Atoi(which)
	if wake.Platform != "fcm" {
		num = 0
	}
	e := history.Event{Kind: history.Pushed, Node: d.N, Conn: num, N: n, Text: string(id)}
	if taken {
		w.Record(e)
		return nil
	}
	e.N = -n
	w.Record(e)
	return errNoWake
}
