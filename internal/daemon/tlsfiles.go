package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"
)

// rereadEvery is how often the certificate's files are looked at. Their
// content is compared, so it does not matter how they are replaced.
const rereadEvery = 10 * time.Second

// fileCerts is a certificate from files.
type fileCerts struct {
	*certificate
	certFile, keyFile string
	cert, key         []byte // as last read; owned by whoever runs keep
}

// readPair reads a certificate and its key.
func readPair(certFile, keyFile string) (cert, key []byte, pair *tls.Certificate, err error) {
	if cert, err = ReadFile(certFile, maxFile, false); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if key, err = ReadFile(keyFile, maxFile, false); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	p, err := tls.X509KeyPair(cert, key) // its errors name no part of the key
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	return cert, key, &p, nil
}

// load reads the files and serves them if they have changed and clients can
// use them.
func (f *fileCerts) load() error {
	cert, key, pair, err := readPair(f.certFile, f.keyFile)
	if err != nil {
		return err
	}
	if bytes.Equal(cert, f.cert) && bytes.Equal(key, f.key) {
		return nil
	}
	if rule, fix := unusable(pair.Leaf, time.Now()); rule != "" {
		return fmt.Errorf("%s %s; %s", f.certFile, rule, fix)
	}
	f.cert, f.key = cert, key
	f.use(pair)
	return nil
}

// keep reloads the files when they change. A reload that fails leaves the
// old certificate, and is told once for each different reason: files are
// replaced one after the other.
func (f *fileCerts) keep(ctx context.Context, reload <-chan os.Signal) {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	said := ""
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-reload:
			asked = true
		}
		switch err := f.load(); {
		case err == nil:
			said = ""
		case asked || err.Error() != said:
			said = err.Error()
			f.failed(err, 0)
		}
	}
}

func (f *fileCerts) config() *tls.Config { return tlsConfig(f.get) }

// serves asks the certificate: what it is not good for is not ours.
func (f *fileCerts) serves(host string) bool {
	leaf := f.leaf()
	return leaf != nil && leaf.VerifyHostname(host) == nil
}
