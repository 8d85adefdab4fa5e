package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// claimKey is the key to which a binary binds its server-id. It is the reference
// implementation of docs/protocol.md, section 17, and shares no code with the relay.
type claimKey struct {
	key  ed25519.PrivateKey
	last int64 // the time in the last header, in milliseconds
}

// header returns the value of the header x-pyrycode-claim-key for a claim of server at the
// relay that is addressed as host. Each header has a later time than the one before, so
// that the relay accepts each of them once.
func (k *claimKey) header(host, server string, now time.Time) string {
	k.last = max(now.UnixMilli(), k.last+1)
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	text := fmt.Sprintf("pyrycode-claim-v1\n%s\n%d\n%s", host, k.last, server)
	enc := base64.RawURLEncoding
	public := k.key.Public().(ed25519.PublicKey)
	return fmt.Sprintf("v1.%s.%d.%s", enc.EncodeToString(public), k.last, enc.EncodeToString(ed25519.Sign(k.key, []byte(text))))
}

// readClaimKey reads a key from a file. If the file does not exist, readClaimKey creates it
// with a new key.
func readClaimKey(name string) (*claimKey, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return newClaimKey(name)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it has no PEM block PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("its key is not of the kind Ed25519: openssl genpkey -algorithm ed25519 makes one")
	}
	return &claimKey{key: key}, nil
}

// newClaimKey creates a file with a new key.
func newClaimKey(name string) (*claimKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &claimKey{key: key}, f.Close()
}

// bind makes d bind its server-id to the key of --claim-key, if that is given.
func (p *probe) bind(d *dialer) (err error) {
	if p.ClaimKey == "" {
		return nil
	}
	if d.key, err = readClaimKey(p.ClaimKey); err != nil {
		return fmt.Errorf("--claim-key %s: %w", p.ClaimKey, withoutName(err))
	}
	return nil
}

const (
	// claimTime is the longest time that a claim may take. The relay gives the holder
	// of the server-id up to a minute to answer (--conflict-probe).
	claimTime = 90 * time.Second

	// claimPause is the time between the claim and the first phone. In it the relay can
	// refuse the claim; a phone that comes earlier may still reach the former holder.
	claimPause = 100 * time.Millisecond

	// claimPatience is the time after which the user is told that the claim waits.
	claimPatience = time.Second

	serverInUse = 4409
)

// claimed waits until the relay has decided the claim of binary. It returns nil when a
// frame of a phone has passed through binary itself, which shows that it holds the
// server-id. It closes the phone. The caller must have started binary.echo.
func (d *dialer) claimed(ctx context.Context, binary *peer, out io.Writer) error {
	defer d.sayWaiting(out)()
	deadline := time.NewTimer(claimTime)
	defer deadline.Stop()
	var last error
	for pause := claimPause; ; pause = min(2*pause, lastRetryAfter) {
		select {
		case <-binary.ended:
			return d.notHeld(binary)
		case <-ctx.Done():
			return errInterrupted
		case <-deadline.C:
			return &failure{kindOf(last), fmt.Errorf("it is not known whether the binary holds server-id %s, after %s: %w", d.server, claimTime, last)}
		case <-time.After(pause):
		}
		p, _, err := d.phone(ctx, "the phone that shows whether the binary holds the server-id", binary)
		if err == nil {
			p.close()
			return nil
		}
		switch kindOf(err) {
		case failUnreachable, failTLS, failFrame:
			return err
		}
		last = err
	}
}

// sayWaiting writes to out after claimPatience that the claim waits, unless done is
// called before. After done has returned, it writes nothing.
func (d *dialer) sayWaiting(out io.Writer) (done func()) {
	var mu sync.Mutex
	over := false
	told := time.AfterFunc(claimPatience, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			fmt.Fprintf(out, "binary: connected, and waits for the relay to decide who holds server-id %s\n", d.server)
		}
	})
	return func() {
		told.Stop()
		mu.Lock()
		over = true
		mu.Unlock()
	}
}

// notHeld returns the reason why binary does not hold its server-id. The connection of
// binary must have ended.
func (d *dialer) notHeld(binary *peer) error {
	if websocket.IsCloseError(binary.err, serverInUse) {
		return &failure{failClosed, fmt.Errorf("%w: another binary, which is alive, holds server-id %s", binary.reason(), d.server)}
	}
	return binary.why()
}
