package battery

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// A ClientHello costs its sender nothing; the answer costs a signature. That
// one address, or twenty, has the relay answer as many as it can leaves frames
// their processor.
func TestRow03HandshakesThatAreNeverFinishedDisturbNobody(t *testing.T) {
	cert, key, client := selfSigned(t)
	c := startChild(t, func(c *config.Config) {
		c.TLSCert, c.TLSKey = cert, key
		c.MaxPendingPerAddress = config.Default().MaxPendingPerAddress
	})
	c.tls = client
	h := c.pair()
	given(t, "%d addresses, %d handshakes a second for %v", 20, dose(1000, 2000), dose(time.Second, 12*time.Second))
	hello := clientHello(c.tls)
	var answers atomic.Int64
	ended := make(chan struct{})
	time.AfterFunc(dose(time.Second, 12*time.Second), func() { close(ended) })
	var all sync.WaitGroup
	for i := range dose(20, 100) {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 8, byte(1+i%20))}}
		all.Go(func() {
			tick := time.NewTicker(dose(20*time.Millisecond, 50*time.Millisecond)) // 2,000 a second
			defer tick.Stop()
			for {
				select {
				case <-ended:
					return
				case <-tick.C:
				}
				conn, err := from.Dial("tcp", c.public)
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = conn.Write(hello)
				if n, _ := conn.Read(make([]byte, 1)); n > 0 {
					answers.Add(1)
				}
				_ = conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		})
	}
	all.Wait()
	if answers.Load() == 0 {
		t.Error("no ClientHello was answered")
	}
	t.Logf("the relay used %.1f s for %d handshakes that no client finished", c.metric("process_cpu_seconds_total"), answers.Load())
	h.check()
}

// selfSigned is a certificate for relay.test, and what its clients need. Its
// key is RSA's. Its signatures are the expensive ones.
func selfSigned(t *testing.T) (certFile, keyFile string, client *tls.Config) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", private), &tls.Config{RootCAs: pool, ServerName: "relay.test"}
}

// clientHello is the first flight of a client.
func clientHello(cfg *tls.Config) []byte {
	ours, theirs := net.Pipe()
	go func() {
		_ = tls.Client(ours, cfg).Handshake()
	}()
	b := make([]byte, 16<<10)
	n, _ := theirs.Read(b)
	theirs.Close()
	return b[:n]
}
