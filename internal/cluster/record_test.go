package cluster

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

func FuzzParseRecord(f *testing.F) {
	for _, r := range []record{
		{kind: kindHello, bytes: []byte(`{"v":2}`)},
		{kind: kindData, id: 7, offset: 1 << 40, bytes: []byte("frame")},
		{kind: kindFin, id: 7, offset: 9},
		{kind: kindAnswer, id: 1},
	} {
		f.Add(r.append(nil))
	}
	f.Add([]byte{byte(kindData), 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, limit := range []int{maxHello, maxRecord} {
			r, size, err := parseRecord(p, limit)
			switch {
			case err != nil && size != 0, size > len(p), len(r.bytes) > limit:
				t.Fatalf("%d bytes of record, size %d of %d, %v", len(r.bytes), size, len(p), err)
			case err == nil && size == 0 && len(p) >= recordHeader+limit:
				t.Fatalf("waits for more after %d bytes", len(p))
			case size > 0 && !bytes.Equal(r.append(nil), p[:size]):
				t.Fatalf("%+v is written as other bytes than %x", r, p[:size])
			}
		}
	})
}

// The queue of a link loses nothing, keeps the order of each kind of records, lets control
// records overtake the others, and never writes more than a chunk of those.
func TestALinkQueueKeepsItsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rt := relay.Runtime{}.WithDefaults()
		q := linkQueue{rt: &rt}
		var queued, got [2][]uint64 // ids of control records, and of others
		id := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"control", "stream", "write"}).Draw(t, "step") {
			case "control":
				for range rapid.SampledFrom([]int{1, 30, 200}).Draw(t, "records") {
					id++
					if !q.putControl(record{kind: kindPing, id: id}) {
						t.Fatal("the queue is full")
					}
					queued[0] = append(queued[0], id)
				}
			case "stream":
				id++
				n := q.room(rapid.SampledFrom([]int{1, 500, 20_000, maxRecord}).Draw(t, "bytes"))
				q.put(record{kind: kindData, id: id, bytes: make([]byte, n)})
				queued[1] = append(queued[1], id)
			case "write":
				write(t, &q, &got)
			}
		}
		for write(t, &q, &got) {
		}
		for i, kind := range []string{"control records", "records of streams"} {
			if len(queued[i]) != len(got[i]) {
				t.Fatalf("%d of %d %s came", len(got[i]), len(queued[i]), kind)
			}
			for k := range got[i] {
				if got[i][k] != queued[i][k] {
					t.Fatalf("%s came in the order %v; want %v", kind, got[i], queued[i])
				}
			}
		}
		if q.frames != 0 || len(q.chunks) != 0 || q.writing.buf != nil {
			t.Fatalf("an empty queue holds %d bytes and %d chunks", q.frames, len(q.chunks))
		}
	})
}

// write takes the next write from q and appends the ids of its records to got. It reports
// whether there was one.
func write(t *rapid.T, q *linkQueue, got *[2][]uint64) bool {
	controls := len(q.control)
	out := q.next()
	if len(out) > max(controls, chunkSize) {
		t.Fatalf("a write of %d bytes; want at most %d", len(out), chunkSize)
	}
	frames := false
	p := out
	for len(p) > 0 {
		r, size, err := parseRecord(p, maxRecord)
		if err != nil || size == 0 {
			t.Fatalf("a write ends inside a record: %v", err)
		}
		p = p[size:]
		i := 0
		if r.kind.inOrder() {
			i, frames = 1, true
		} else if frames {
			t.Fatal("a control record is behind a record of a stream")
		}
		got[i] = append(got[i], r.id)
	}
	if frames && len(q.control) > 0 {
		t.Fatalf("%d bytes of control records wait for the next write", len(q.control))
	}
	return len(out) > 0
}
