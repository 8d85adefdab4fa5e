package battery

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// recordWriter writes TLS 1.3 records of any type on a connection of crypto/tls, which
// itself only writes those of data. Nothing may write to that connection meanwhile.
type recordWriter struct {
	below  net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64 // records that have been written with the secret
}

// write sends one record. kind is its type: 22 for a part of a handshake message.
func (w *recordWriter) write(kind byte, payload []byte) error {
	inner := append(bytes.Clone(payload), kind)
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(inner)+w.aead.Overhead()))
	nonce := bytes.Clone(w.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(w.seq >> (8 * i))
	}
	w.seq++
	_, err := w.below.Write(w.aead.Seal(head, nonce, inner, head))
	return err
}

// newRecordWriter returns a writer for a connection of which keyLog has the secrets, and
// which has sent so many records.
func newRecordWriter(c *tls.Conn, keyLog string, sent uint64) (*recordWriter, error) {
	if s := c.ConnectionState().CipherSuite; s != tls.TLS_AES_128_GCM_SHA256 {
		return nil, fmt.Errorf("the cipher suite is %s; want TLS_AES_128_GCM_SHA256", tls.CipherSuiteName(s))
	}
	_, rest, _ := strings.Cut(keyLog, "CLIENT_TRAFFIC_SECRET_0 ")
	line, _, _ := strings.Cut(rest, "\n")
	_, text, _ := strings.Cut(line, " ")
	secret, err := hex.DecodeString(text)
	if err != nil {
		return nil, err
	}
	w := &recordWriter{below: c.NetConn(), secret: secret}
	err = w.rekey()
	w.seq = sent
	return w, err
}

// rekey derives the keys from the secret.
func (w *recordWriter) rekey() error {
	key, err := w.expand("key", 16)
	if err != nil {
		return err
	}
	if w.iv, err = w.expand("iv", 12); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	w.aead, err = cipher.NewGCM(block)
	w.seq = 0
	return err
}

// update derives the next secret and its keys, as after a key update.
func (w *recordWriter) update() (err error) {
	if w.secret, err = w.expand("traffic upd", sha256.Size); err != nil {
		return err
	}
	return w.rekey()
}

// expand is HKDF-Expand-Label of TLS 1.3 with an empty context.
func (w *recordWriter) expand(label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(size >> 8), byte(size), byte(len(label))}, label...)
	return hkdf.Expand(sha256.New, w.secret, string(append(info, 0)), size)
}

// recordClient upgrades a binary, and returns a writer of TLS records to the relay, which
// writes them below the connection of crypto/tls.
func (n *node) recordClient(id string) *recordWriter {
	n.t.Helper()
	nc, err := net.Dial("tcp", n.public)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	var keyLog bytes.Buffer
	cfg := n.tls.Clone()
	cfg.KeyLogWriter = &keyLog
	tc := tls.Client(nc, cfg)
	if _, err := fmt.Fprintf(tc, "GET /v1/server HTTP/1.1\r\n%sUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Pyrycode-Server: %s\r\nX-Pyrycode-Version: 1\r\nUser-Agent: x\r\n\r\n", host, id); err != nil {
		n.t.Fatal(err)
	}
	if _, err := io.ReadFull(tc, make([]byte, 20)); err != nil {
		n.t.Fatal(err)
	}
	w, err := newRecordWriter(tc, keyLog.String(), 1)
	if err != nil {
		n.t.Skip(err)
	}
	return w
}

const recordCuts = `pyrycode_relay_connections_cut_total{reason="tls_bytes"}`

// After the upgrade, clients send key updates, with a byte of a frame after each one, so
// that crypto/tls never counts many in a row. Each makes the relay derive keys and
// answer. The clients are cut, and counted.
func TestRow41ManyKeyUpdatesAfterTheUpgradeAreCut(t *testing.T) {
	cert, key, client := selfSigned(t)
	conns, updates := dose(20, 500), 1000
	given(t, "%d connections, %d key updates each", conns, updates)
	c := startChild(t, func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key })
	c.tls = client
	h := c.pair()
	text := []byte(frame(0x81, `{"conn_id":"c-0123456789abcdef","frame":1}`))
	for i := range conns {
		w := c.recordClient(fmt.Sprint("s", i))
		go func() { _, _ = io.Copy(io.Discard, w.below) }()
		for k := range updates {
			if w.write(22, []byte{24, 0, 0, 1, 1}) != nil || w.update() != nil || w.write(23, text[k%len(text):][:1]) != nil {
				break // it is cut already
			}
		}
	}
	c.until("all are cut", func() bool { return c.metric(recordCuts) == float64(conns) })
	c.until("the pair is left", func() bool { return c.metric("pyrycode_relay_connected_binaries") == 1 })
	h.check()
}

// After the upgrade, clients send the beginning of a handshake message of 64 KB, which
// crypto/tls keeps until it is whole. They are cut, and counted.
func TestRow41ALongHandshakeMessageAfterTheUpgradeIsCut(t *testing.T) {
	cert, key, client := selfSigned(t)
	conns := dose(40, 500)
	given(t, "%d connections, 60 KB each in records of 16,000 and of 500 bytes", conns)
	c := startChild(t, func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key })
	c.tls = client
	h := c.pair()
	message := append([]byte{24, 0, 0xea, 0x60}, make([]byte, 60_000)...) // of a KeyUpdate's type
	for i := range conns {
		w := c.recordClient(fmt.Sprint("s", i))
		size := []int{16_000, 500}[i%2]
		for rest := message; len(rest) > size; rest = rest[size:] {
			if w.write(22, rest[:size]) != nil {
				break // it is cut already
			}
		}
	}
	c.until("all are cut", func() bool { return c.metric(recordCuts) == float64(conns) })
	c.until("the pair is left", func() bool { return c.metric("pyrycode_relay_connected_binaries") == 1 })
	h.check()
}
