package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Opcodes of RFC 6455.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// maskKey masks all frames. A constant key is sufficient: an unpredictable key
// protects browsers against intermediaries, and generating one costs time here.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// closedError reports a close frame from the relay.
type closedError struct {
	code   int
	reason string
}

func (e *closedError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("closed by the relay: %d %s", e.code, e.reason))
}

// refusedError reports a refused upgrade.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string { return "refused: HTTP " + e.text }

// peer is one connection of a binary or of a phone. It reads and writes many
// frames per system call, which a WebSocket library does not, so that the relay
// and not the generator is the bottleneck.
type peer struct {
	conn net.Conn
	raw  bool // no WebSocket framing: the other end copies bytes

	in   []byte // bytes read from conn
	r, w int    // in[r:w] is not consumed yet

	mu  sync.Mutex // guards out and writes to conn
	out []byte
}

// target is a relay with the parameters for dialling it.
type target struct {
	addr    string // host:port
	raw     bool
	tls     *tls.Config // nil: no TLS
	buffer  int         // size of each peer's read buffer
	timeout time.Duration
	dialled *atomic.Int64 // spreads loopback connections over source addresses
	phones  *target       // where phones connect; nil: at this target
}

// perAddress is the number of connections from each loopback source address. A
// relay limits upgrades and connections per address. All addresses of 127/8 are
// available as source addresses.
const perAddress = 100

// from returns the next source address, or nil to let the system choose.
func (t *target) from() net.Addr {
	host, _, _ := net.SplitHostPort(t.addr)
	if ip := net.ParseIP(host); ip == nil || ip.To4() == nil || !ip.IsLoopback() {
		return nil
	}
	n := t.dialled.Add(1)/perAddress + 1<<16
	return &net.TCPAddr{IP: net.IPv4(127, byte(n>>16), byte(n>>8), byte(n))}
}

// dial opens a connection to path, /v1/server or /v1/client, for a server-id.
func (t *target) dial(path, server string) (*peer, error) {
	d := net.Dialer{Timeout: t.timeout, LocalAddr: t.from(), KeepAlive: -1}
	conn, err := d.Dial("tcp", t.addr)
	if err != nil {
		return nil, err
	}
	conn = quick(conn)
	p := &peer{conn: conn, raw: t.raw, in: make([]byte, t.buffer)}
	if t.raw {
		return p, nil
	}
	_ = conn.SetDeadline(time.Now().Add(t.timeout))
	if t.tls != nil {
		p.conn = tls.Client(conn, t.tls)
	}
	if err := p.handshake(t.addr, path, server); err != nil {
		conn.Close()
		return nil, err
	}
	_ = p.conn.SetDeadline(time.Time{})
	return p, nil
}

func (p *peer) handshake(host, path, server string) error {
	var nonce [16]byte
	rand.Read(nonce[:])
	_, err := fmt.Fprintf(p.conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nUser-Agent: relayload\r\n"+
		"X-Pyrycode-Server: %s\r\nX-Pyrycode-Version: relayload\r\n\r\n",
		path, host, base64.StdEncoding.EncodeToString(nonce[:]), server)
	if err != nil {
		return err
	}
	br := bufio.NewReaderSize(p.conn, 512)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return fmt.Errorf("no answer to the handshake: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return &refusedError{status: resp.StatusCode, text: resp.Status + ": " + strings.TrimSpace(string(body))}
	}
	early, _ := br.Peek(br.Buffered())
	p.w = copy(p.in, early)
	return nil
}

// fill blocks until more bytes have been read. It grows the buffer if a frame
// needs more room.
func (p *peer) fill() error {
	if p.r > 0 {
		p.w = copy(p.in, p.in[p.r:p.w])
		p.r = 0
	}
	if p.w == len(p.in) {
		p.in = append(p.in, make([]byte, len(p.in))...)
	}
	n, err := p.conn.Read(p.in[p.w:])
	p.w += n
	return err
}

// take returns the next complete data frame in the buffer; ok is false if the
// buffer holds none. It answers pings. After a close frame from the relay it
// returns a *closedError. The payload is valid until the next fill.
func (p *peer) take() (payload []byte, ok bool, err error) {
	for {
		b := p.in[p.r:p.w]
		if len(b) < 2 {
			return nil, false, nil
		}
		n, head := int(b[1]&0x7f), 2
		switch n {
		case 126:
			if head = 4; len(b) < head {
				return nil, false, nil
			}
			n = int(binary.BigEndian.Uint16(b[2:]))
		case 127:
			if head = 10; len(b) < head {
				return nil, false, nil
			}
			n = int(binary.BigEndian.Uint64(b[2:]))
		}
		if b[0]&0x70 != 0 || b[0]&0x80 == 0 || b[1]&0x80 != 0 || n < 0 || n > 64<<20 {
			return nil, false, fmt.Errorf("not a frame of a server: % x", b[:2])
		}
		if len(b) < head+n {
			return nil, false, nil
		}
		p.r += head + n
		payload = b[head : head+n]
		switch b[0] & 0x0f {
		case opText:
			return payload, true, nil
		case opPing:
			p.mu.Lock()
			p.out = appendMasked(p.out, opPong, payload)
			err := p.flushLocked()
			p.mu.Unlock()
			if err != nil {
				return nil, false, err
			}
		case opPong:
		case opClose:
			e := &closedError{code: 1005}
			if n >= 2 {
				e.code, e.reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
			}
			return nil, false, e
		default:
			return nil, false, fmt.Errorf("opcode %d from the relay; want text", b[0]&0x0f)
		}
	}
}

// next blocks until a data frame has arrived and returns it.
func (p *peer) next() ([]byte, error) {
	for {
		payload, ok, err := p.take()
		if ok || err != nil {
			return payload, err
		}
		if err := p.fill(); err != nil {
			return nil, err
		}
	}
}

// flushLocked writes out to the connection. The caller holds mu.
func (p *peer) flushLocked() error {
	if len(p.out) == 0 {
		return nil
	}
	_, err := p.conn.Write(p.out)
	p.out = p.out[:0]
	return err
}

// send writes one text frame.
func (p *peer) send(payload []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = appendMasked(p.out, opText, payload)
	return p.flushLocked()
}

// bye sends a close frame with code 1000 and waits up to one second for the
// answer, so that the relay counts an orderly close. It then closes the
// connection.
func (p *peer) bye() {
	_ = p.conn.SetDeadline(time.Now().Add(time.Second))
	if !p.raw {
		p.mu.Lock()
		p.out = appendMasked(p.out[:0], opClose, []byte{1000 >> 8, 1000 & 0xff})
		err := p.flushLocked()
		p.mu.Unlock()
		for err == nil {
			_, err = p.next()
		}
	}
	p.conn.Close()
}

// appendMasked appends one complete masked frame to dst.
func appendMasked(dst []byte, op byte, payload []byte) []byte {
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, 0x80|op, 0x80|byte(n))
	case n <= 0xffff:
		dst = append(dst, 0x80|op, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|op, 0x80|127), uint64(n))
	}
	dst = append(dst, maskKey[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	mask(dst[start:])
	return dst
}

// mask masks b in place, eight bytes at a time.
func mask(b []byte) {
	key := uint64(binary.LittleEndian.Uint32(maskKey[:]))
	key |= key << 32
	for len(b) >= 32 {
		w := (*[32]byte)(b)
		for i := 0; i < 32; i += 8 {
			binary.LittleEndian.PutUint64(w[i:], binary.LittleEndian.Uint64(w[i:])^key)
		}
		b = b[32:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= maskKey[i&3]
	}
}

// isClosed reports whether err is a close by the relay with the given code.
func isClosed(err error, code int) bool {
	e, ok := errors.AsType[*closedError](err)
	return ok && e.code == code
}
