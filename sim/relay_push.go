package sim

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Wakes: binaries ask for them among what means nothing to phones, and a push
// that takes every other one sees whether the relay hands on just those.

// Tokens say whose wake it is, which, and whether push will take it.
const (
	tokenTaken   = "yes "
	tokenRefused = "no "
	tokenPhone   = "phone" // beside a conn_id it is none
)

var errNoWake = errors.New("sim: push takes every other wake")

// wake asks for a connection's next wake. The mutex is held.
func (c *client) wake() []byte {
	c.wakes++
	kind := tokenRefused
	if c.wakes%2 == 0 {
		kind = tokenTaken
	}
	return []byte(`{"push_wake":{"platform":"fcm","token":"` + kind + strconv.Itoa(c.num) + " " + strconv.Itoa(c.wakes) + `"}}`)
}

// noWake is an envelope for a phone that nobody knows, whatever else it has.
func noWake() []byte {
	b := appendEnvelope(nil, maxClients+1, []byte(`1`), 0)
	return append(b[:len(b)-1], `,"push_wake":{"platform":"fcm","token":"`+tokenPhone+`"}}`...)
}

// pushed is the push of one process. It runs on a task of the relay's, so
// the race detector is not to see what it does.
//
//go:norace
func (w *relayRun) pushed(d *node, id wire.ServerID, wake wire.PushWake) error {
	if wake.Token == tokenPhone {
		w.e.Fail("wake", "what stands beside a conn_id was taken for a wake")
		return nil
	}
	taken := strings.HasPrefix(wake.Token, tokenTaken)
	whose, which, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(wake.Token, tokenTaken), tokenRefused), " ")
	num, _ := strconv.Atoi(whose)
	n, _ := strconv.Atoi(which)
	p, ok := w.connInfo(num)
	switch c := w.clients[min(max(num, 0), maxClients-1)].Load(); {
	case !ok || c == nil || wake.Platform != "fcm":
		w.e.Fail("wake", "not as a binary asked for it")
	case p.phone || p.node != d || relayServers[p.server] != string(id):
		w.e.Fail("wake", "handed on for another server-id")
	case n != c.woken+1 || n > c.wakes:
		w.e.Fail("wake", "a wake is lost, repeated or out of order")
	default:
		c.woken = n
	}
	if taken {
		return nil
	}
	d.unwoken++
	return errNoWake
}

// judgeRefusedWakes holds what the relay counted as refused against what was.
func (w *relayRun) judgeRefusedWakes(d *node, counted float64) {
	if counted != float64(d.unwoken) {
		w.e.Fail("wake", "the relay counts %v wakes that were refused; push refused %d", counted, d.unwoken)
	}
}
