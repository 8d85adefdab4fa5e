package front

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
)

// piecedConn returns the pieces that it was made of, one for each Read.
type piecedConn struct {
	net.Conn
	pieces
}

func (c *piecedConn) Read(p []byte) (int, error) { return c.pieces.Read(p) }

// throughBelowTLS returns what crypto/tls gets, one element for each Read.
func throughBelowTLS(t *testing.T, in ...string) (reads [][]byte) {
	t.Helper()
	b := &belowTLS{Conn: &piecedConn{pieces: in}, hello: new(clientHello)}
	p := make([]byte, 2000)
	for {
		n, err := b.Read(p)
		if n > 0 {
			reads = append(reads, bytes.Clone(p[:n]))
		}
		if err == io.EOF {
			return reads
		}
		if err != nil || n == 0 {
			t.Fatalf("Read = %d, %v", n, err)
		}
	}
}

func record(kind byte, size int) string {
	b := []byte{kind, 3, 1, byte(size >> 8), byte(size)}
	for i := range size {
		b = append(b, byte(i))
	}
	return string(b)
}

func TestTheFirstRecordComesInPieces(t *testing.T) {
	hello := record(recordHandshake, 1000)
	for name, in := range map[string][]string{
		"in one read":       {hello, "next"},
		"in two reads":      {hello[:3], hello[3:], "next"},
		"with what follows": {hello + "next"},
	} {
		reads := throughBelowTLS(t, in...)
		if len(reads) != 4 || len(reads[0]) != recordHeader+helloPiece || len(reads[2]) != recordHeader+1000-2*helloPiece || string(reads[3]) != "next" {
			t.Fatalf("%s: %d reads", name, len(reads))
		}
		var body []byte
		for _, r := range reads[:3] {
			if r[0] != recordHandshake || int(r[3])<<8+int(r[4]) != len(r)-recordHeader {
				t.Errorf("%s: a piece has the header %x; %d bytes follow it", name, r[:recordHeader], len(r)-recordHeader)
			}
			body = append(body, r[recordHeader:]...)
		}
		if string(body) != hello[recordHeader:] {
			t.Errorf("%s: the pieces have other bytes than the record", name)
		}
	}
}

// crypto/tls judges what is no record of a handshake, and what is not whole.
func TestOtherBeginningsAreNotChanged(t *testing.T) {
	for _, in := range []string{
		"GET / HTTP/1.1\r\n\r\n", "\x16", record(recordHandshake, 1000)[:900], record(23, 50), record(recordHandshake, 0),
	} {
		if got := bytes.Join(throughBelowTLS(t, in), nil); string(got) != in {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestAHandshakeSucceedsInPieces(t *testing.T) {
	a := certtest.New(t)
	certFile, keyFile, _ := a.Issue(t.TempDir(), "localhost")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ours, theirs := net.Pipe()
		deadline := time.Now().Add(10 * time.Second)
		_, _ = ours.SetDeadline(deadline), theirs.SetDeadline(deadline)
		server := tls.Server(&belowTLS{Conn: ours, hello: new(clientHello)}, config)
		dialled := a.Client("localhost")
		dialled.MaxVersion = version
		client := tls.Client(theirs, dialled)
		go func() {
			_, _ = client.Write([]byte("frame"))
			_ = client.CloseWrite()
			_, _ = io.Copy(io.Discard, client) // the session ticket, for which a pipe has no room
		}()
		if got, err := io.ReadAll(server); string(got) != "frame" || err != nil {
			t.Errorf("%x: %q, %v", version, got, err)
		}
		server.Close()
	}
}

// FuzzBelowTLS compares what crypto/tls gets with what came: the same bytes, or the same
// first record in more than one.
func FuzzBelowTLS(f *testing.F) {
	f.Add(record(recordHandshake, 1000), 3)
	f.Add("GET / HTTP/1.1\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, in string, at int) {
		if len(in) == 0 {
			return
		}
		at = max(1, min(at, len(in)))
		halves := []string{in[:at]}
		if at < len(in) {
			halves = append(halves, in[at:])
		}
		got := bytes.Join(throughBelowTLS(t, halves...), nil)
		if len(in) >= recordHeader && in[0] == recordHandshake {
			if size := recordHeader + int(in[3])<<8 + int(in[4]); len(in) >= size && size > recordHeader {
				var body []byte
				for len(body) < size-recordHeader {
					n := int(got[3])<<8 + int(got[4])
					body = append(body, got[recordHeader:recordHeader+n]...)
					got = got[recordHeader+n:]
				}
				got = slices.Concat([]byte(in[:recordHeader]), body, got)
			}
		}
		if string(got) != in {
			t.Errorf("%q became %q", in, got)
		}
	})
}
