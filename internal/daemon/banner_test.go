package daemon

import (
	"net"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

func TestURLsAreThoseThatThisMachineOpens(t *testing.T) {
	at := func(text string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tt := range []struct {
		name, domain          string
		public, private       net.Addr
		publicTLS, privateTLS bool
		want                  URLs
	}{
		{"loopback", "", at("127.0.0.1:8080"), at("127.0.0.1:9090"), false, false, URLs{"ws://127.0.0.1:8080", "http://127.0.0.1:9090/"}},
		{"all addresses", "", at("[::]:8080"), at("0.0.0.0:9090"), false, false, URLs{"ws://127.0.0.1:8080", "http://127.0.0.1:9090/"}},
		{"certificates of files", "", at("[::1]:8443"), at("127.0.0.1:9090"), true, true, URLs{"wss://[::1]:8443", "https://127.0.0.1:9090/"}},
		{"a domain", "relay.test", at("[::]:443"), at("127.0.0.1:9090"), true, false, URLs{"wss://relay.test", "http://127.0.0.1:9090/"}},
		{"a domain at another port", "relay.test", at("[::]:8443"), at("127.0.0.1:9090"), true, false, URLs{"wss://relay.test:8443", "http://127.0.0.1:9090/"}},
		{"a Unix socket", "", at("127.0.0.1:8080"), &net.UnixAddr{Name: "/run/x", Net: "unix"}, false, false, URLs{"ws://127.0.0.1:8080", ""}},
	} {
		if got := urlsOf(config.Config{Domain: tt.domain}, tt.public, tt.private, tt.publicTLS, tt.privateTLS); got != tt.want {
			t.Errorf("%s: got %+v; want %+v", tt.name, got, tt.want)
		}
	}
}
