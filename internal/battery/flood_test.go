package battery

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// flood is connections of one address that send as much as the relay takes, and
// read what it answers. One that is closed dials again.
type flood struct {
	Kind   string // of floods; empty: all kinds, one connection each in turn
	Relay  string // its address
	From   string // the address of this machine that all come from
	Conns  int
	TLS    bool
	MBytes int // a second, of all together
}

// floods is what each kind sends. A %s stands for the server-id of connection i.
var floods = map[string]struct {
	bad    bool   // these envelopes are wrong, so that their binaries are closed
	phone  bool   // every 16th connection is a binary that only reads, the others its phones
	text   string // sent again and again
	chunks int    // bytes of one TLS record; 0: as many as fit
}{
	"a repeated close_code":   {text: frame(0x81, `{`+strings.Repeat(`"close_code":1,`, 4000)+`"close_code":1}`)},
	"bad envelopes of a byte": {bad: true, text: frame(0x81, `1`)},
	"unknown phones":          {bad: true, text: frame(0x81, `{"conn_id":"c-0123456789abcdef","frame":1}`)},
	"bad envelopes of 3 MB":   {text: frame(0x81, `{"frame":[`+strings.Repeat(`{"":""},`, 400_000)+`1]}`)},
	"fragments of a byte":     {text: frame(0x01, ``) + strings.Repeat(frame(0x00, ` `), 1000) + frame(0x80, `{"conn_id":"c-0123456789abcdef","frame":1}`)},
	"pings":                   {text: frame(0x89, `x`)},
	"frames of a byte":        {text: frame(0x81, `1`), phone: true},
	"frames of 200 KiB":       {text: frame(0x81, `[`+strings.Repeat(`[],`, 200<<10/3)+`1]`), phone: true},
	"records of a byte":       {text: frame(0x81, `{"conn_id":"c-0123456789abcdef","frame":1}`), chunks: 1},
}

var floodKinds = slices.Sorted(maps.Keys(floods))

// begin sends the flood until the process ends. end prints what it has sent.
func (f flood) begin() (end func()) {
	var sent, dialled atomic.Int64
	for i := range f.Conns {
		go func() {
			for {
				_ = f.send(i, &sent, &dialled)
				time.Sleep(50 * time.Millisecond)
			}
		}()
	}
	return func() { fmt.Println(sent.Load(), dialled.Load()) }
}

// send is one connection, from its upgrade to its end.
func (f flood) send(i int, sent, dialled *atomic.Int64) error {
	name := f.Kind
	if name == "" {
		name = floodKinds[i%len(floodKinds)]
	}
	kind := floods[name]
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.From)}}
	c, err := d.Dial("tcp", f.Relay)
	if err != nil {
		return err
	}
	defer c.Close()
	out := &batched{Conn: c}
	var w net.Conn = out
	if f.TLS {
		w = tls.Client(out, &tls.Config{InsecureSkipVerify: true})
	}
	path, slot, silent := "/v1/server", i, false
	if kind.phone {
		slot = i / 16
		if silent = i%16 == 0; !silent {
			path = "/v1/client"
		}
	}
	dialled.Add(1)
	fmt.Fprintf(w, "GET %s HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Pyrycode-Server: slot-%d\r\nX-Pyrycode-Version: 1\r\nUser-Agent: battery\r\n\r\n", path, slot)
	_ = out.flush()
	if _, err := w.Read(make([]byte, 1)); err != nil {
		return err
	}
	if silent {
		_, err := io.Copy(io.Discard, w)
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, w) }()
	text := []byte(kind.text)
	if len(text) < 64<<10 {
		text = bytes.Repeat(text, 64<<10/len(text))
	}
	pause := time.Duration(0)
	if f.MBytes > 0 {
		pause = time.Duration(float64(len(text)) * float64(f.Conns) / float64(f.MBytes) * 1000)
	}
	for next := time.Now(); ; next = next.Add(pause) {
		time.Sleep(time.Until(next))
		for rest := text; len(rest) > 0; {
			k := len(rest)
			if kind.chunks > 0 {
				k = kind.chunks
			}
			n, err := w.Write(rest[:k])
			sent.Add(int64(n))
			if err != nil {
				return err
			}
			rest = rest[k:]
		}
		if err := out.flush(); err != nil {
			return err
		}
	}
}

// batched is a connection with small writes that leave together.
type batched struct {
	net.Conn
	mu      sync.Mutex
	waiting []byte
}

func (b *batched) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, p...)
	if len(b.waiting) < 32<<10 {
		return len(p), nil
	}
	return len(p), b.out()
}

func (b *batched) Read(p []byte) (int, error) {
	if err := b.flush(); err != nil { // the other side may wait for it
		return 0, err
	}
	return b.Conn.Read(p)
}

func (b *batched) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out()
}

func (b *batched) out() error {
	_, err := b.Conn.Write(b.waiting)
	b.waiting = b.waiting[:0]
	return err
}

// flood starts f in a process of its own. What it returns ends it, and says how many
// bytes it has sent and how often it has dialled.
func (n *node) flood(f flood) (end func() (sent, dialled int)) {
	n.t.Helper()
	f.Relay, f.TLS = n.public, n.tls != nil
	stop := n.attackFromOutside(f)
	return func() (sent, dialled int) {
		said := stop()
		if _, err := fmt.Sscan(said, &sent, &dialled); err != nil {
			n.t.Errorf("the flood: %v: %.2000s", err, said)
		}
		return sent, dialled
	}
}
