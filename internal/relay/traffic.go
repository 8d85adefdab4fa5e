package relay

import "sync/atomic"

// trafficCounts counts what one connection has sent and got. The connection adds to it once
// for each read, for each digest and for each write, never for a frame. Any task may
// read it.
type trafficCounts struct {
	bytesIn, framesIn   atomic.Uint64 // as read from the socket, and the messages in it
	bytesOut, framesOut atomic.Uint64 // of the frames that are on the wire
}

// Traffic is the frames and bytes of one connection since its begin. Bytes of a peer
// include what WebSocket adds; bytes to a peer are those of the frames, with their
// envelopes.
type Traffic struct {
	FramesIn, BytesIn   uint64 // from the peer
	FramesOut, BytesOut uint64 // to the peer
}

func (t *trafficCounts) load() Traffic {
	return Traffic{
		FramesIn: t.framesIn.Load(), BytesIn: t.bytesIn.Load(),
		FramesOut: t.framesOut.Load(), BytesOut: t.bytesOut.Load(),
	}
}

func (t *trafficCounts) sent(frames, bytes int) {
	t.framesOut.Add(uint64(frames))
	t.bytesOut.Add(uint64(bytes))
}

// minus returns the traffic since o.
func (t Traffic) minus(o Traffic) Traffic {
	return Traffic{t.FramesIn - o.FramesIn, t.BytesIn - o.BytesIn, t.FramesOut - o.FramesOut, t.BytesOut - o.BytesOut}
}

// Bytes returns the bytes of both directions.
func (t Traffic) Bytes() uint64 { return t.BytesIn + t.BytesOut }
