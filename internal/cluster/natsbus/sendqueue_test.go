package natsbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

func TestTheQueueSendsInOrderAndEmptiesAtClose(t *testing.T) {
	var got []string
	q := newSendQueue(func(subject string, data []byte) error {
		got = append(got, subject+string(data))
		return nil
	})
	var want []string
	data := make([]byte, 0, 8)
	for i := range 1000 {
		data = fmt.Append(data[:0], i) // data belongs to the caller after put
		if err := q.put("s", data); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint("s", i))
	}
	q.close(time.Minute)
	if !slices.Equal(got, want) {
		t.Errorf("%d were sent, the first %v; want %d in order", len(got), got[:min(5, len(got))], len(want))
	}
	if err := q.put("s", nil); !errors.Is(err, errDisconnected) {
		t.Errorf("put after the end: %v", err)
	}
}

// stuck returns a queue with a connection that takes no data until release.
func stuck(t *testing.T) (q *sendQueue, sent *atomic.Int64, release func()) {
	sent = new(atomic.Int64)
	entered, gate := make(chan struct{}, 1), make(chan struct{})
	q = newSendQueue(func(string, []byte) error {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-gate
		sent.Add(1)
		return nil
	})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(func() { release(); q.close(time.Minute) })
	if err := q.put("first", []byte("x")); err != nil {
		t.Fatal(err)
	}
	<-entered
	return q, sent, release
}

func TestTheQueueIsBoundedWhileTheConnectionTakesNoData(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		want int64
	}{
		{"in bytes", make([]byte, 1<<20), maxQueuedBytes >> 20},
		{"in messages", nil, maxQueued},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, sent, release := stuck(t)
			for i := range tt.want {
				if err := q.put("s", tt.data); err != nil {
					t.Fatalf("put %d: %v", i, err)
				}
			}
			if err := q.put("s", []byte("x")); !errors.Is(err, cluster.ErrBacklog) {
				t.Errorf("put into a full queue: %v; want %v", err, cluster.ErrBacklog)
			}
			release()
			q.close(time.Minute)
			if sent.Load() != tt.want+1 {
				t.Errorf("%d were sent; want %d", sent.Load(), tt.want+1)
			}
		})
	}
}

func TestMessagesQueuedAtADisconnectAreNotSentLater(t *testing.T) {
	q, sent, release := stuck(t)
	_ = q.put("s", []byte("old"))
	q.setDisconnected(true)
	if err := q.put("s", []byte("x")); !errors.Is(err, errDisconnected) {
		t.Errorf("put while NATS is disconnected: %v; want %v", err, errDisconnected)
	}
	q.setDisconnected(false)
	_ = q.put("s", []byte("new"))
	release()
	q.close(time.Minute)
	if sent.Load() != 2 {
		t.Errorf("%d were sent; want the first and the new one", sent.Load())
	}
}

// single runs one NATS server, like one that an operator runs.
func single(t *testing.T, set func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	if set != nil {
		set(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(15 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	return s
}

// stall is a connection that a test can stop: neither end reads any more.
type stall struct {
	net.Listener
	to string

	mu    sync.Mutex // held while the connection is stopped
	conns sync.WaitGroup
}

func (s *stall) run() {
	for {
		a, err := s.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", s.to)
		if err != nil {
			a.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
			s.conns.Go(func() {
				defer a.Close()
				defer b.Close()
				buf := make([]byte, 4096)
				for {
					n, err := way[0].Read(buf)
					if err != nil {
						return
					}
					s.mu.Lock()
					_, err = way[1].Write(buf[:n])
					s.mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
	}
}

// A connection that takes no data delays no publisher. Publish returns an error when the
// queue is full or NATS is disconnected. Once the connection works again, Publish
// succeeds.
func TestPublishNeverWaitsForAConnectionThatTakesNoData(t *testing.T) {
	s := single(t, nil)
	u, err := url.Parse(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	link := &stall{Listener: ln, to: u.Host}
	go link.run()
	defer link.conns.Wait()
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lost := make(chan error, 8)
	c, err := Dial(ctx, Config{URLs: "nats://" + ln.Addr().String(), Lost: func(err error) { lost <- err }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make(chan string, 1)
	if err := c.Subscribe("after", func(m cluster.Message) {
		select {
		case got <- string(m.Data):
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	link.mu.Lock()
	record := make([]byte, 64<<10)
	var longest time.Duration
	for full := false; !full; {
		begun := time.Now()
		err := c.Publish("void", record)
		longest = max(longest, time.Since(begun))
		if full = errors.Is(err, cluster.ErrBacklog); err != nil && !full {
			t.Fatalf("publish: %v; want %v", err, cluster.ErrBacklog)
		}
	}
	if longest > callTimeout/2 {
		t.Errorf("a publish took %v; want none to wait", longest)
	}
	if err := <-lost; err == nil {
		t.Error("the link came before it was lost")
	}
	if err := c.Publish("void", record); !errors.Is(err, errDisconnected) {
		t.Errorf("publish without a link: %v; want %v", err, errDisconnected)
	}
	link.mu.Unlock()
	for err := range lost {
		if err == nil {
			break
		}
	}
	for end := time.Now().Add(15 * time.Second); ; {
		_ = c.Publish("after", []byte("hello"))
		select {
		case m := <-got:
			if m != "hello" {
				t.Errorf("got %q", m)
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("nothing comes through the link again")
		}
	}
}
