package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// For every way to cut the stream, the tracker reports an end exactly at the ends of messages,
// and none after a close.
func TestATrackerReportsTheEndsOfMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		ends := map[int]bool{0: true}
		closed := false
		for range rapid.IntRange(1, 6).Draw(t, "messages") {
			op := rapid.SampledFrom([]Opcode{OpText, OpPing, OpPong, OpText, OpText, OpClose}).Draw(t, "opcode")
			n := rapid.SampledFrom([]int{0, 1, 125, 126, 127, 65535, 65536, 70000}).Draw(t, "size")
			if op.Control() {
				n = min(n, 125)
			}
			all = AppendMessage(all, op, bytes.Repeat([]byte{0x81}, n))
			closed = closed || op == OpClose
			ends[len(all)] = !closed
		}
		var w FrameTracker
		for at := 0; at < len(all); {
			n := rapid.IntRange(1, min(len(all)-at, 40_000)).Draw(t, "piece")
			w.Skip(all[at : at+n])
			if at += n; w.Whole() != ends[at] {
				t.Fatalf("after %d bytes Whole() = %t; want %t", at, w.Whole(), ends[at])
			}
		}
	})
}
