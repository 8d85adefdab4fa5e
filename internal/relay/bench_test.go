package relay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// feed is a socket in memory. It is read when pass is called.
type feed struct {
	turn    Turn
	watcher Watcher
	in      []byte
	wrote   int // bytes
	closed  atomic.Bool
}

func newFeed() *feed { return new(feed) }

func (f *feed) Start(w Watcher) { f.watcher = w }

func (f *feed) TryRead(p []byte) (int, bool, error) {
	if f.closed.Load() {
		return 0, false, io.EOF
	}
	n := copy(p, f.in)
	f.in = f.in[n:]
	return n, len(f.in) > 0, nil
}

func (f *feed) TryWrite(p []byte) (int, error) { f.wrote += len(p); return len(p), nil }
func (f *feed) CloseWrite() error              { return f.Close() }
func (f *feed) Close() error                   { f.closed.Store(true); return nil }

// couple starts a relay with a binary and its phone over the given sockets.
func couple(t testing.TB, bin, ph Socket) (r *Relay, id wire.ConnID) {
	t.Helper()
	r, err := New(Config{Upgrade: func(_ http.ResponseWriter, req *http.Request) (Socket, error) {
		return req.Context().Value(socketKey{}).(Socket), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		done := make(chan struct{})
		r.Drain(0, func() { close(done) })
		r.Abort()
		<-done
	})
	upgradeTo(r, "/v1/server", bin)
	upgradeTo(r, "/v1/client", ph)
	phones := sortedByJoinOrder(r.registry.slots["s1"].phones)
	if len(phones) != 1 {
		t.Fatalf("%d phones; want 1", len(phones))
	}
	b, p := r.registry.slots["s1"].binary, phones[0].(*phone)
	for b.stepState.Load() != idle || p.stepState.Load() != idle { // their first steps
		runtime.Gosched()
	}
	return r, p.id
}

func upgradeTo(r *Relay, path string, sock Socket) {
	req := request(path, "192.0.2.1:1")
	r.Handler().ServeHTTP(httptest.NewRecorder(), req.WithContext(context.WithValue(req.Context(), socketKey{}, sock)))
}

// jsonOf returns a frame of n bytes in the format of deployed clients.
func jsonOf(n int) string {
	const head, tail = `{"v":2,"type":"noise_msg","data":"`, `"}`
	return head + string(bytes.Repeat([]byte("QUJD"), n))[:n-len(head)-len(tail)] + tail
}

// traffic returns n frames of the given size, on the wire as they enter the relay in each
// direction, and the number of bytes that leave it.
func traffic(id wire.ConnID, size, n int) (up, down []byte, upOut, downOut int) {
	frame := jsonOf(size)
	envelope := string(wire.AppendEnvelopePrefix(nil, id)) + frame + wire.EnvelopeSuffix
	up = bytes.Repeat(clientMail(wire.OpText, frame), n)
	down = bytes.Repeat(clientMail(wire.OpText, envelope), n)
	upOut = n * len(wire.AppendMessage(nil, wire.OpText, []byte(envelope)))
	downOut = n * len(wire.AppendMessage(nil, wire.OpText, []byte(frame)))
	return up, down, upOut, downOut
}

// pass has the relay read in, and checks that it writes out bytes to the other socket.
func (f *feed) pass(t testing.TB, in []byte, to *feed, out int) {
	f.in, to.wrote = in, 0
	f.watcher.Ready(&f.turn, true, true)
	f.turn.Finish()
	if to.wrote != out {
		t.Fatalf("%d bytes are written; want %d", to.wrote, out)
	}
}

// The whole way of a frame makes no allocation.
func TestTheWayThroughTheConnAllocatesNothing(t *testing.T) {
	skipUnderRace(t)
	bin, ph := newFeed(), newFeed()
	_, id := couple(t, bin, ph)
	for _, n := range []int{1, 50} {
		up, down, upOut, downOut := traffic(id, 512, n)
		for name, f := range map[string]func(){
			"phone to binary": func() { ph.pass(t, up, bin, upOut) },
			"binary to phone": func() { bin.pass(t, down, ph, downOut) },
		} {
			for range 100 {
				f()
			}
			if got := testing.AllocsPerRun(1000, f); got != 0 {
				t.Errorf("%s, %d frames in a read: %v allocations; want 0", name, n, got)
			}
		}
	}
}

// The cost of the relay itself, in memory.
func BenchmarkConn(b *testing.B) {
	for _, tt := range []struct{ size, n int }{{512, 1}, {512, 64}, {8 << 10, 1}} {
		bin, ph := newFeed(), newFeed()
		_, id := couple(b, bin, ph)
		up, down, upOut, downOut := traffic(id, tt.size, tt.n)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%dx%d", name, tt.n, tt.size), func(b *testing.B) {
				b.SetBytes(int64(tt.n * tt.size))
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
		run("up", func() { ph.pass(b, up, bin, upOut) })
		run("down", func() { bin.pass(b, down, ph, downOut) })
	}
}

// The same over TCP on loopback, including the kernel's part.
func BenchmarkLoopback(b *testing.B) {
	for _, tt := range []struct{ size, n int }{{512, 1}, {512, 64}, {8 << 10, 1}} {
		binSock, bin := tcpPair(b)
		phSock, ph := tcpPair(b)
		_, id := couple(b, newTCPSocket(binSock), newTCPSocket(phSock))
		up, down, upOut, downOut := traffic(id, tt.size, tt.n)
		room := make([]byte, max(upOut, downOut))
		run := func(name string, from, to net.Conn, in []byte, out int) {
			b.Run(fmt.Sprintf("%s/%dx%d", name, tt.n, tt.size), func(b *testing.B) {
				b.SetBytes(int64(tt.n * tt.size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := from.Write(in); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(to, room[:out]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("up", ph, bin, up, upOut)
		run("down", bin, ph, down, downOut)
	}
}

// The cost of locks through an interface: one indirect call.
func BenchmarkLock(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		var mu sync.Mutex
		for b.Loop() {
			mu.Lock()
			mu.Unlock() //lint:ignore SA2001 this is what is measured
		}
	})
	b.Run("through the interface", func(b *testing.B) {
		mu := Runtime{}.WithDefaults().NewLock("x")
		for b.Loop() {
			mu.Lock()
			mu.Unlock() //lint:ignore SA2001 this is what is measured
		}
	})
}

func BenchmarkRegistry(b *testing.B) {
	for _, slots := range []int{1, 10_000} {
		r := NewRegistry[*binary](RegistryConfig[joiner]{})
		ids := make([]wire.ServerID, slots)
		bins, phones := make([]*binary, slots), make([]*phone, slots)
		for i := range ids {
			ids[i] = wire.ServerID(fmt.Sprint("server-", i))
			bins[i], phones[i] = new(binary), new(phone)
			r.Claim(ids[i], bins[i], Terms{})
		}
		b.Run(fmt.Sprint("release and reclaim/", slots), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i = (i + 1) % slots {
				r.Release(ids[i], bins[i])
				r.Claim(ids[i], bins[i], Terms{})
			}
		})
		b.Run(fmt.Sprint("join and leave/", slots), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i = (i + 1) % slots {
				r.Join(ids[i], phones[i])
				r.Leave(ids[i], phones[i])
			}
		})
		b.Run(fmt.Sprint("takeover/", slots), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i = (i + 1) % slots {
				r.Takeover(ids[i], bins[i], bins[i], Terms{})
			}
		})
		r.Drain()
	}
}

func BenchmarkOutbox(b *testing.B) {
	o := newTestOutbox(1<<20, 1<<20)
	o.sock, o.on = new(discardSocket), &countingOwner{}
	prefix, frame := frameOfSize(41), frameOfSize(512)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		o.put(nil, 0, prefix, frame, wire.EnvelopeSuffix)
		o.flush()
	}
}
