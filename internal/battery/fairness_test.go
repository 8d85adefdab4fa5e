package battery

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// One address takes as much of the relay's processors as it can, in every way that
// frames allow. Peers of other addresses, those of the same one, and newcomers do
// not notice.
func TestRow36ProcessorTimeIsSharedFairly(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(floods)) {
		for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
			t.Run(name+" from "+from, func(t *testing.T) {
				conns := dose(20, 200)
				given(t, "%d connections of one address", conns)
				kind := floods[name]
				var cert, key string
				c := &child{}
				if kind.chunks > 0 {
					cert, key, c.tls = selfSigned(t)
				}
				client := c.tls
				c = startChild(t, func(c *daemon.Config) { c.TLSCert, c.TLSKey = cert, key })
				c.tls = client
				h := c.pair()
				if kind.phone {
					for i := range (conns + 15) / 16 {
						drained(c.mustDial("/v1/server", fmt.Sprint("slot-", i)))
					}
				}
				end := c.flood(flood{Kind: name, From: from, Conns: conns, MBytes: 80})
				time.Sleep(dose(100*time.Millisecond, time.Second)) // until all are there
				before, begun := c.metric("process_cpu_seconds_total"), time.Now()
				select {
				case <-h.enough:
				case <-h.ended:
				}
				took := time.Since(begun)
				used := c.metric("process_cpu_seconds_total") - before
				arrived := time.Now()
				newcomer, _, err := c.dial("/v1/server", "newcomer", "127.0.0.3")
				if err != nil {
					t.Fatalf("a newcomer: %v", err)
				}
				newcomer.Close()
				waited := time.Since(arrived)
				sent, dialled := end()
				t.Logf("%.0f MB/s, relay %.2f processors, %.1f ns of the relay a byte, %d dialled, newcomer %v", float64(sent)/1e6/took.Seconds(), used/took.Seconds(), used*1e9/float64(sent), dialled, waited)
				h.check()
			})
		}
	}
}
