package relay

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// link is a connection in memory between a tlsSocket and its peer. It is the socket
// below the tlsSocket. Nothing in it waits.
type link struct {
	toRelay, toPeer bytes.Buffer
	piece           func() int // the most bytes of the next TryRead
	room            int        // bytes that TryWrite still takes
	ended           bool       // the peer sends nothing more
	closed          bool
	secret          []byte // of the peer's records, with TLS 1.3
	cuts            int
}

// keyLog keeps the secret of a client's records.
type keyLog struct{ client []byte }

func (k *keyLog) Write(line []byte) (int, error) {
	if f := strings.Fields(string(line)); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
		k.client, _ = hex.DecodeString(f[2])
	}
	return len(line), nil
}

// sealer makes records of TLS 1.3 that crypto/tls does not make.
type sealer struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	n      byte // records made
}

func newSealer(secret []byte) *sealer {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &sealer{secret: secret, aead: aead, iv: expand(secret, "iv", 12)}
}

// expand is HKDF-Expand-Label of RFC 8446, section 7.1, without a context.
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	b, err := hkdf.Expand(sha256.New, secret, string([]byte{0, byte(n), byte(len(label))})+label+"\x00", n)
	if err != nil {
		panic(err)
	}
	return b
}

// next returns the sealer after a key update.
func (s *sealer) next() *sealer { return newSealer(expand(s.secret, "traffic upd", len(s.secret))) }

func (s *sealer) record(kind byte, data []byte) []byte {
	nonce := bytes.Clone(s.iv)
	nonce[11] ^= s.n
	s.n++
	size := len(data) + 1 + s.aead.Overhead()
	head := []byte{23, 3, 3, byte(size >> 8), byte(size)}
	return s.aead.Seal(head, nonce, append(bytes.Clone(data), kind), head)
}

// Kinds of records and of handshake messages.
const (
	kindHandshake = 22
	kindData      = 23
	keyUpdate     = 24
)

func (l *link) Start(Watcher) {}

func (l *link) TryRead(p []byte) (n int, more bool, err error) {
	if l.closed {
		return 0, false, net.ErrClosed
	}
	if l.toRelay.Len() == 0 {
		if l.ended {
			return 0, false, io.EOF
		}
		return 0, false, nil
	}
	n, _ = l.toRelay.Read(p[:min(len(p), l.piece())])
	return n, l.toRelay.Len() > 0 || l.ended, nil
}

func (l *link) TryWrite(p []byte) (n int, err error) {
	if l.closed {
		return 0, net.ErrClosed
	}
	n = min(len(p), l.room)
	l.room -= n
	return l.toPeer.Write(p[:n])
}

func (l *link) CloseWrite() error { return nil }
func (l *link) Close() error      { l.closed = true; return nil }

// linkPeer is the peer's end of a link, as a net.Conn for crypto/tls.
type linkPeer struct {
	net.Conn
	l *link
}

func (c linkPeer) Read(p []byte) (int, error) {
	if c.l.toPeer.Len() == 0 {
		return 0, errTLSWaits
	}
	return c.l.toPeer.Read(p)
}

func (c linkPeer) Write(p []byte) (int, error) {
	return c.l.toRelay.Write(p)
}

func (c linkPeer) SetDeadline(time.Time) error      { return nil }
func (c linkPeer) SetWriteDeadline(time.Time) error { return nil }

// replaced is a net.Conn that another one can replace.
type replaced struct{ net.Conn }

func always(n int) func() int { return func() int { return n } }

var linkCert = func() tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}()

// newTLSLink returns a tlsSocket after its handshake, the link below it, and its peer,
// with reads that do not wait either.
func newTLSLink(t testing.TB, version uint16) (*tlsSocket, *link, *tls.Conn) {
	t.Helper()
	a, b := net.Pipe()
	below, peerBelow := &replaced{a}, &replaced{b}
	conn := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{linkCert}, MaxVersion: version,
		DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true}) // a pipe has no room for a ticket
	secrets := new(keyLog)
	peer := tls.Client(peerBelow, &tls.Config{InsecureSkipVerify: true, MaxVersion: version, DynamicRecordSizingDisabled: true, KeyLogWriter: secrets})
	done := make(chan error, 1)
	go func() { done <- conn.Handshake() }()
	if err := errors.Join(peer.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	a.Close()
	l := &link{piece: always(1 << 20), room: 1 << 30, secret: secrets.client}
	s, feed := newTLSSocket(conn, l, func() { l.cuts++ })
	below.Conn, peerBelow.Conn = feed, linkPeer{l: l}
	return s, l, peer
}

// readAll calls s.TryRead until it owes a call of Ready or fails.
func readAll(s *tlsSocket) (got []byte, err error) {
	var b Buffer
	for {
		n, more, err := s.TryRead(b[:])
		got = append(got, b[:n]...)
		if err != nil || !more {
			return got, err
		}
	}
}

// readPeer reads what the peer has got.
func readPeer(peer *tls.Conn) (got []byte, err error) {
	b := make([]byte, 64<<10)
	for {
		n, err := peer.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			return got, err
		}
	}
}

var tlsVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

func TestTLSReadsEachSplit(t *testing.T) {
	random := mrand.New(mrand.NewPCG(1, 2))
	for _, version := range tlsVersions {
		for name, piece := range map[string]func() int{
			"a byte": always(1), "all": always(1 << 20), "at random": func() int { return 1 + random.IntN(700) }, "past a record": always(16<<10 + 300),
		} {
			s, l, peer := newTLSLink(t, version)
			l.piece = piece
			var want, got []byte
			for i := range 40 {
				part := bytes.Repeat([]byte{byte(i)}, 1+random.IntN(3000))
				want = append(want, part...)
				if _, err := peer.Write(part); err != nil {
					t.Fatal(err)
				}
				if i%3 == 0 {
					b, err := readAll(s)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, b...)
				}
			}
			b, err := readAll(s)
			if got = append(got, b...); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%x, %s: got %d bytes, %v; want %d, the same", version, name, len(got), err, len(want))
			}
			if s.in != nil || s.outBuf != nil {
				t.Errorf("%x, %s: an idle socket has a buffer", version, name)
			}
		}
	}
}

func TestTLSReadsMoreThanABuffer(t *testing.T) {
	s, _, peer := newTLSLink(t, tls.VersionTLS13)
	want := make([]byte, 1<<20)
	rand.Read(want)
	if _, err := peer.Write(want); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(s); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if s.keeps > 20<<10 {
		t.Errorf("crypto/tls keeps %d bytes after records of 16 KiB; want little more", s.keeps)
	}
}

// writeAll calls s.TryWrite with all of p, in parts, as an outbox does. The bytes that
// follow the first one of a later call differ from those of the call before.
func writeAll(t testing.TB, s *tlsSocket, l *link, p []byte, room func() int) {
	t.Helper()
	for calls := 0; len(p) > 0; calls++ {
		if l.room = room(); calls > 1<<20 {
			t.Fatalf("no progress: %d bytes are left", len(p))
		}
		n, err := s.TryWrite(p)
		if err != nil {
			t.Fatal(err)
		}
		if n == len(p) && len(s.out) > 0 {
			t.Fatalf("all was reported as taken, and %d bytes of ciphertext wait", len(s.out))
		}
		p = p[n:]
	}
}

func TestTLSWritesAllInOrder(t *testing.T) {
	random := mrand.New(mrand.NewPCG(3, 4))
	for _, version := range tlsVersions {
		for name, room := range map[string]func() int{
			"a byte": always(1), "all": always(1 << 20), "at random": func() int { return random.IntN(9000) },
		} {
			s, l, peer := newTLSLink(t, version)
			held := 0
			s.ReportHeld(func(n int) { held = n })
			var want, got []byte
			for _, size := range []int{1, 2, 600, 70_000, tlsChunk, tlsChunk + 1, 5} {
				part := make([]byte, size)
				rand.Read(part)
				want = append(want, part...)
				writeAll(t, s, l, part, room)
				b, err := readPeer(peer)
				if got = append(got, b...); err != errTLSWaits {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%x, %s: got %d bytes; want %d, the same", version, name, len(got), len(want))
			}
			if held != 0 || s.outBuf != nil {
				t.Errorf("%x, %s: an idle socket reports %d bytes", version, name, held)
			}
		}
	}
}

func TestTLSBatchIsFewRecords(t *testing.T) {
	s, l, _ := newTLSLink(t, tls.VersionTLS13)
	if n, err := s.TryWrite(make([]byte, 32<<10)); n != 32<<10 || err != nil {
		t.Fatal(n, err)
	}
	if extra := l.toPeer.Len() - 32<<10; extra != 2*(tlsHeader+1+16) {
		t.Errorf("%d bytes of overhead; want that of two records", extra)
	}
}

func TestTLSHeldBytesAreReported(t *testing.T) {
	s, l, peer := newTLSLink(t, tls.VersionTLS13)
	held := 0
	s.ReportHeld(func(n int) { held = n })
	l.room = 0
	n, err := s.TryWrite(make([]byte, 1000))
	if n != 999 || err != nil || held < 1000 || held > 2000 {
		t.Errorf("%d bytes taken, %v, %d held; want 999, and about 1022 held", n, err, held)
	}
	l.room = 1 << 20
	if n, err := s.TryWrite(make([]byte, 1)); n != 1 || err != nil || held != 0 {
		t.Errorf("%d bytes taken, %v, %d held; want 1 and 0", n, err, held)
	}
	if _, err := peer.Write(make([]byte, 16<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(s); err != nil || held < 12<<10 || held > 16<<10 {
		t.Errorf("%d held, %v; want what crypto/tls keeps of a long record, less %d", held, err, tlsBuffer)
	}
}

func TestTLSEndsWithACloseNotify(t *testing.T) {
	for _, version := range tlsVersions {
		s, l, peer := newTLSLink(t, version)
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := readPeer(peer); err != io.EOF {
			t.Errorf("the peer reads %v; want EOF", err)
		}
		if _, err := peer.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		if err := peer.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(s); string(got) != "last" || err != io.EOF {
			t.Errorf("%q, %v; want the last bytes and EOF", got, err)
		}
		_ = s.Close()
		if _, err := s.TryWrite([]byte("x")); err == nil || !l.closed {
			t.Error("a closed socket takes bytes")
		}
	}
}

func TestTLSEndOfTheConnectionBelow(t *testing.T) {
	for _, tt := range []struct {
		cut  int
		want error
	}{{0, io.EOF}, {10, io.ErrUnexpectedEOF}} {
		s, l, peer := newTLSLink(t, tls.VersionTLS13)
		if _, err := peer.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		l.toRelay.Truncate(l.toRelay.Len() - tt.cut)
		l.ended = true
		if _, err := readAll(s); err != tt.want {
			t.Errorf("%v; want %v", err, tt.want)
		}
	}
}

func TestTLSChangedRecordIsAnsweredWithAnAlert(t *testing.T) {
	s, l, peer := newTLSLink(t, tls.VersionTLS13)
	if _, err := peer.Write([]byte("frame")); err != nil {
		t.Fatal(err)
	}
	l.toRelay.Bytes()[l.toRelay.Len()-1] ^= 1
	for range 2 {
		if got, err := readAll(s); len(got) > 0 || err == nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := readPeer(peer); err == nil || err.Error() != "remote error: tls: bad record MAC" {
		t.Errorf("the peer reads %v", err)
	}
}

func TestTLSTinyRecordsEndATryRead(t *testing.T) {
	s, _, peer := newTLSLink(t, tls.VersionTLS13)
	const records = 3 * tlsRecordsPerRead
	for range records {
		if _, err := peer.Write([]byte{'x'}); err != nil {
			t.Fatal(err)
		}
	}
	var b Buffer
	for i := range 3 {
		if n, more, err := s.TryRead(b[:]); n != tlsRecordsPerRead || more != (i < 2) || err != nil {
			t.Errorf("%d, %v, %v", n, more, err)
		}
	}
}

func TestTLSEndsAPeerThatSendsNoData(t *testing.T) {
	s, l, _ := newTLSLink(t, tls.VersionTLS13)
	if len(l.secret) != sha256.Size {
		t.Skip("the cipher is not the one that the test knows")
	}
	seal := newSealer(l.secret)
	const size = 60_000 // of a message that crypto/tls waits for
	l.toRelay.Write(seal.record(kindHandshake, append([]byte{keyUpdate, 0, size >> 8, size & 0xff}, make([]byte, 16_000)...)))
	if _, err := readAll(s); err != nil {
		t.Fatalf("the first record: %v", err)
	}
	l.toRelay.Write(seal.record(kindHandshake, make([]byte, 16_000)))
	l.toRelay.Write(seal.record(kindHandshake, make([]byte, 16_000)))
	for range 2 {
		if _, err := readAll(s); err != errTLSUndelivered {
			t.Errorf("%v; want %v", err, errTLSUndelivered)
		}
	}
	if l.cuts != 1 {
		t.Errorf("%d cuts are counted; want 1", l.cuts)
	}
}

func TestTLSAnswersAKeyUpdate(t *testing.T) {
	s, l, peer := newTLSLink(t, tls.VersionTLS13)
	if len(l.secret) != sha256.Size {
		t.Skip("the cipher is not the one that the test knows")
	}
	seal := newSealer(l.secret)
	l.toRelay.Write(seal.record(kindHandshake, []byte{keyUpdate, 0, 0, 1, 1}))
	seal = seal.next()
	l.toRelay.Write(seal.record(kindData, []byte("frame")))
	if got, err := readAll(s); string(got) != "frame" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if l.toPeer.Len() == 0 {
		t.Error("the key update has no answer")
	}
	if _, err := s.TryWrite([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if got, err := readPeer(peer); string(got) != "answer" || err != errTLSWaits {
		t.Errorf("the peer reads %q, %v", got, err)
	}
}

// A peer that sends many records without data is cut, even if data comes in between and it
// reads the answers. A peer that sends much data may send some.
func TestTLSEndsAPeerThatSendsManyRecordsWithoutData(t *testing.T) {
	for _, tt := range []struct {
		what string
		kind byte
		text []byte
		data int  // records with data after each one without
		ends bool // the connection ends
		room int  // for the answers
	}{
		{"key updates with answers", kindHandshake, []byte{keyUpdate, 0, 0, 1, 1}, 1, true, 1 << 30},
		{"key updates with answers that it does not read", kindHandshake, []byte{keyUpdate, 0, 0, 1, 1}, 1, true, 0},
		{"key updates without an answer", kindHandshake, []byte{keyUpdate, 0, 0, 1, 0}, 1, true, 1 << 30},
		{"empty records", kindData, nil, 1, true, 1 << 30},
		{"a key update in a thousand records", kindHandshake, []byte{keyUpdate, 0, 0, 1, 0}, 1000, false, 1 << 30},
	} {
		s, l, _ := newTLSLink(t, tls.VersionTLS13)
		if len(l.secret) != sha256.Size {
			t.Skip("the cipher is not the one that the test knows")
		}
		l.room = tt.room
		seal, ended := newSealer(l.secret), error(nil)
		useless := 0
		for ; useless < 2*tlsUseless && ended == nil; useless++ {
			l.toRelay.Write(seal.record(tt.kind, tt.text))
			if tt.kind == kindHandshake {
				seal = seal.next()
			}
			for range tt.data {
				l.toRelay.Write(seal.record(kindData, []byte("x")))
			}
			_, ended = readAll(s)
		}
		if (ended == errTLSUseless) != tt.ends || ended == nil && tt.ends {
			t.Errorf("%s: after %d the error is %v; want the connection to end: %t", tt.what, useless, ended, tt.ends)
		}
		if tt.ends && l.cuts != 1 {
			t.Errorf("%s: %d cuts are counted; want 1", tt.what, l.cuts)
		}
	}
}

// Records of the maximum size fill the buffer of a read exactly, again and again.
func TestTLSCountsRecordsThatFillABufferAsUseful(t *testing.T) {
	s, _, peer := newTLSLink(t, tls.VersionTLS13)
	for i := range 2 * tlsUseless {
		if _, err := peer.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(s); len(got) != 64<<10 || err != nil {
			t.Fatalf("after %d records: %d bytes, %v", 4*i, len(got), err)
		}
	}
}

// echoer is the watcher of a socket. It sends the bytes back.
type echoer struct {
	sock  Socket
	mu    sync.Mutex // guards all below
	out   []byte
	ended error
}

func (e *echoer) Ready(_ *Turn, readable, _ bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := NewBuffer()
	defer b.Free()
	for more := readable; more && e.ended == nil; {
		var n int
		n, more, e.ended = e.sock.TryRead(b[:])
		e.out = append(e.out, b[:n]...)
	}
	n, err := e.sock.TryWrite(e.out)
	if e.out = e.out[n:]; err != nil && e.ended == nil {
		e.ended = err
	}
}

// A real connection echoes more than its buffers hold, over each kind of socket.
func TestTLSOverRealSockets(t *testing.T) {
	for name, below := range map[string]func(*net.TCPConn) Socket{
		"poller":    newTCPSocket,
		"goroutine": func(c *net.TCPConn) Socket { return newStreamSocket(c) },
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			dialled, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			peer := tls.Client(dialled, &tls.Config{InsecureSkipVerify: true})
			defer peer.Close()
			_ = peer.SetDeadline(time.Now().Add(patience))
			tcp, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			bottom := &replaced{tcp}
			conn := tls.Server(bottom, &tls.Config{Certificates: []tls.Certificate{linkCert}})
			hello := make(chan error, 1)
			go func() { hello <- peer.Handshake() }()
			if err := errors.Join(conn.Handshake(), <-hello); err != nil {
				t.Fatal(err)
			}
			s, feed := newTLSSocket(conn, below(tcp.(*net.TCPConn)), func() {})
			bottom.Conn = feed
			e := &echoer{sock: s}
			s.Start(e)
			e.Ready(nil, true, false)

			want := make([]byte, 3<<20)
			rand.Read(want)
			wrote := make(chan error, 1)
			go func() {
				for rest, n := want, 1; len(rest) > 0; n = min(2*n, 100_000) {
					n = min(n, len(rest))
					if _, err := peer.Write(rest[:n]); err != nil {
						wrote <- err
						return
					}
					rest = rest[n:]
				}
				wrote <- nil
			}()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("the echo: %v, or wrong bytes", err)
			}
			if err := errors.Join(<-wrote, s.CloseWrite()); err != nil {
				t.Fatal(err)
			}
			if n, err := peer.Read(got); n != 0 || err != io.EOF {
				t.Errorf("after a close_notify: %d bytes, %v", n, err)
			}
			_ = s.Close()
		})
	}
}

// FuzzTLSSplits moves data in both directions over a link with reads and writes that have
// the sizes in script.
func FuzzTLSSplits(f *testing.F) {
	f.Add([]byte{1, 5, 22, 0, 255, 3}, []byte("some frames"), uint16(700))
	f.Add([]byte{255, 0}, bytes.Repeat([]byte("x"), 3000), uint16(70))
	f.Fuzz(func(t *testing.T, script, data []byte, scale uint16) {
		if len(script) == 0 || len(data) == 0 || len(data) > 1<<17 {
			return
		}
		s, l, peer := newTLSLink(t, tls.VersionTLS13)
		at := 0
		next := func() int {
			at++
			return int(script[at%len(script)]) * (1 + int(scale)/64)
		}
		l.piece = func() int { return 1 + next() }
		var in, out []byte
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+next())
			if _, err := peer.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			got, err := readAll(s)
			if err != nil {
				t.Fatal(err)
			}
			in = append(in, got...)
		}
		writeAll(t, s, l, data, func() int { return 1 + next() })
		out, err := readPeer(peer)
		if err != errTLSWaits {
			t.Fatal(err)
		}
		if !bytes.Equal(in, data) || !bytes.Equal(out, data) {
			t.Errorf("%d bytes came in and %d went out; want %d, the same", len(in), len(out), len(data))
		}
	})
}
