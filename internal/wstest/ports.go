package wstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
)

// The kernel gives outgoing connections, and listeners at port 0, no port of this range. A port of
// it that was free a moment ago is therefore still free, unless another process has chosen it.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// chosen counts the ports that this process has chosen, from a random one on, so that it chooses
// none twice.
var chosen atomic.Uint32

func init() { chosen.Store(rand.Uint32N(lastPort - firstPort)) }

// FreeAddress returns an address on loopback for a program that a test starts. Its port and the
// n-1 next ones were free.
func FreeAddress(n int) (string, error) {
	all, err := ListenInRow("127.0.0.1", n)
	if err != nil {
		return "", err
	}
	for _, ln := range all {
		ln.Close()
	}
	return all[0].Addr().String(), nil
}

// ListenInRow listens on n ports of host, one after the other.
func ListenInRow(host string, n int) ([]net.Listener, error) {
	var err error
	for range 100 {
		var all []net.Listener
		first := firstPort + int(chosen.Add(uint32(n))-uint32(n))%(lastPort-firstPort)
		for port := first; len(all) < n; port++ {
			var ln net.Listener
			if ln, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err != nil {
				break
			}
			all = append(all, ln)
		}
		if len(all) == n {
			return all, nil
		}
		for _, ln := range all {
			ln.Close()
		}
	}
	return nil, fmt.Errorf("no %d free ports in a row: %w", n, err)
}
