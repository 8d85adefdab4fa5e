package sim

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// The linearizability check of the relay world knows which answers the peers
// got and when, and nothing of locks or steps. For each server-id of each
// process it asks whether there is an order in which one slot, carrying out one
// operation at a time, gives these answers.

type slotEvent uint8

const (
	slotGranted   slotEvent = iota // the binary got the slot, or may have got it
	slotReleased                   // it released the slot, if it had it
	toldInUse                      // it was closed with 4409
	frameServed                    // the binary got a frame of the phone
	toldNoServer                   // the phone was told that there is no server
	maxOpenEvents = 14             // with more events without an end the search takes too long
	searchTimeout = 200 * time.Millisecond
)

type slotCall struct {
	event  slotEvent
	binary *client // or the phone that was told that there is no server
}

// relaySlot is the model of the slot. Its state is the holder.
var relaySlot = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{(*client)(nil)} },
	Step: func(state, input, _ any) (next []any) {
		holder, c := state.(*client), input.(slotCall)
		can := func(ok bool, to *client) {
			if ok {
				next = append(next, to)
			}
		}
		switch c.event {
		case slotGranted: // a takeover needs a holder that was told of it, or cannot be
			can(holder == nil || !holder.closed || holder.reason == "heartbeat timeout", c.binary)
			can(c.binary.firstFrameAt().step == 0, holder) // no peer knows that it was granted
		case slotReleased:
			can(holder == c.binary, nil)
			can(holder != c.binary, holder)
		case toldInUse:
			can(holder != nil, holder)
		case frameServed:
			can(holder == c.binary, holder)
		case toldNoServer:
			can(holder == nil, holder)
		}
		return next
	},
}).ToModel()

// judgeLinearizable runs this check.
func (w *relayRun) judgeLinearizable() {
	for _, d := range w.processes() {
		for s := range maxServers {
			history, open := w.history(d, s)
			if len(history) < 2 || open > maxOpenEvents {
				continue
			}
			if porcupine.CheckOperationsTimeout(relaySlot, history, searchTimeout) == porcupine.Illegal {
				w.e.Fail("linearizable", "no order of claims and ends of %s explains what its peers were told", relayServers[s])
			}
		}
	}
}

// history returns the operations on one server-id, of process d or of all if d
// is nil, and how many of them have no end.
func (w *relayRun) history(d *node, server int) (all []porcupine.Operation, open int) {
	add := func(c *client, event slotEvent, b *client, to stamp) {
		end := int64(to.step)
		if end == 0 {
			end = math.MaxInt64
			open++
		}
		all = append(all, porcupine.Operation{ClientId: len(all), Input: slotCall{event, b}, Call: int64(c.dialedAt.step), Return: end})
	}
	for _, c := range w.all() {
		switch {
		case d != nil && c.node != d || c.server != server || !c.upgraded:
		case c.phone:
			if c.closed && c.reason == "no server with that id" {
				add(c, toldNoServer, c, c.closedAt)
			}
		case c.code == 4409 && c.reason != "":
			add(c, toldInUse, c, c.closedAt)
		default:
			add(c, slotGranted, c, c.firstFrameAt())
			add(c, slotReleased, c, stamp{step: c.sock.endStep})
			for n, f := range c.flows {
				if len(f.got) > 0 {
					add(w.clients[n].Load(), frameServed, c, f.since)
				}
			}
		}
	}
	return all, open
}
