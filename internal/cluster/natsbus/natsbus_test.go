package natsbus

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/conform"
)

// ports are addresses that were free just now.
func ports(t *testing.T, n int) (all []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		all = append(all, ln.Addr().String())
	}
	return all
}

func TestThreeServersKeepThePromises(t *testing.T) {
	at := ports(t, 3)
	var servers []*Server
	for i := range at {
		s, err := Serve(ServerConfig{Name: fmt.Sprintf("n%d", i), Listen: at[i], Peers: at, Secret: "s", Err: func(string) {}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		servers = append(servers, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var conns []*Conn
	for _, s := range servers {
		c, err := Dial(ctx, Config{Embedded: s})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		conns = append(conns, c)
	}
	conform.Run(t, conns[0], conns[1])
}
