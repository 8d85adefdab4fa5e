package clustercert

import (
	"crypto/tls"
	"net"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a secret of the tests, long enough"

func derive(t *testing.T, secret string) *Identity {
	t.Helper()
	i, err := Derive(secret, "relay-1")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// handshake returns the errors of both ends. It uses a socket, because both ends may write
// an alert, and a net.Pipe does not buffer.
func handshake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if err = c.Handshake(); err == nil {
			_, err = c.Write([]byte("x")) // with TLS 1.3 the client learns here whether its certificate was accepted
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	if err = c.Handshake(); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	raw.Close()
	return <-done, err
}

func TestRelaysWithOneSecretAcceptEachOther(t *testing.T) {
	if s, c := handshake(t, derive(t, secret).Server(), derive(t, secret).Client()); s != nil || c != nil {
		t.Errorf("server: %v, client: %v", s, c)
	}
}

func TestRelaysWithDifferentSecretsRefuseEachOther(t *testing.T) {
	other := derive(t, secret+"!")
	open := derive(t, secret).Server()
	open.ClientAuth = tls.NoClientCert
	if _, c := handshake(t, open, other.Client()); c == nil {
		t.Error("the client accepted the server")
	}
	trusting := other.Client()
	trusting.VerifyConnection = nil
	if s, _ := handshake(t, derive(t, secret).Server(), trusting); s == nil {
		t.Error("the server accepted the client")
	}
	bare := derive(t, secret).Client()
	bare.Certificates = nil
	if s, _ := handshake(t, derive(t, secret).Server(), bare); s == nil {
		t.Error("the server accepted a client without a certificate")
	}
}

func TestAShortSecretIsRefused(t *testing.T) {
	if _, err := Derive("short", "relay-1"); err == nil || !strings.Contains(err.Error(), "16") {
		t.Errorf("%v", err)
	}
}

func TestTheFilesAreTheIdentity(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second time replaces the files
		f, err := derive(t, secret).WriteFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		client := derive(t, secret).Client()
		client.Certificates = []tls.Certificate{pair}
		if s, c := handshake(t, derive(t, secret).Server(), client); s != nil || c != nil {
			t.Errorf("server: %v, client: %v", s, c)
		}
		if st, err := os.Stat(f.Key); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", st, err)
		}
	}
}
