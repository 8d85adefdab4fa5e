package relayworld

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
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
	ToldNoServer                   // the phone was told that there is no server
	MaxOpenEvents = 14             // with more events without an end the search takes too long
	SearchTimeout = 200 * time.Millisecond
)

type SlotCall struct {
	Event  slotEvent
	Binary *Client // or the phone that was told that there is no server
}

// SlotModel is the model of the slot. Its state is the holder.
var SlotModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{(*Client)(nil)} },
	Step: func(state, input, _ any) (next []any) {
		holder, c := state.(*Client), input.(SlotCall)
		can := func(ok bool, to *Client) {
			if ok {
				next = append(next, to)
			}
		}
		switch c.Event {
		case slotGranted: // a takeover needs a holder that was told of it, or cannot be
			can(holder == nil || !holder.Closed || holder.Reason == "heartbeat timeout", c.Binary)
			can(c.Binary.firstFrameAt().Step == 0, holder) // no peer knows that it was granted
		case slotReleased:
			can(holder == c.Binary, nil)
			can(holder != c.Binary, holder)
		case toldInUse:
			can(holder != nil, holder)
		case frameServed:
			can(holder == c.Binary, holder)
		case ToldNoServer:
			can(holder == nil, holder)
		}
		return next
	},
}).ToModel()

// judgeLinearizable runs this check.
func (w *Instance) judgeLinearizable() {
	for _, d := range w.processes() {
		for s := range MaxServers {
			history, open := w.History(d, s)
			if len(history) < 2 || open > MaxOpenEvents {
				continue
			}
			if porcupine.CheckOperationsTimeout(SlotModel, history, SearchTimeout) == porcupine.Illegal {
				w.Engine.Fail("linearizable", "no order of claims and ends of %s explains what its peers were told", Servers[s])
			}
		}
	}
}

// History returns the operations on one server-id, of process d or of all if d
// is nil, and how many of them have no end.
func (w *Instance) History(d *Node, server int) (all []porcupine.Operation, open int) {
	add := func(c *Client, event slotEvent, b *Client, to engine.Stamp) {
		end := int64(to.Step)
		if end == 0 {
			end = math.MaxInt64
			open++
		}
		all = append(all, porcupine.Operation{ClientId: len(all), Input: SlotCall{event, b}, Call: int64(c.DialedAt.Step), Return: end})
	}
	for _, c := range w.All() {
		switch {
		case d != nil && c.Node != d || c.Server != server || !c.Upgraded:
		case c.Phone:
			if c.Closed && c.Reason == "no server with that id" {
				add(c, ToldNoServer, c, c.ClosedAt)
			}
		case c.Code == 4409 && c.Reason != "":
			add(c, toldInUse, c, c.ClosedAt)
		default:
			add(c, slotGranted, c, c.firstFrameAt())
			add(c, slotReleased, c, engine.Stamp{Step: c.Sock.endStep})
			for n, f := range c.Flows {
				if len(f.Got) > 0 {
					add(w.Clients[n].Load(), frameServed, c, f.since)
				}
			}
		}
	}
	return all, open
}
