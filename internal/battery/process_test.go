package battery

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestRow20WithoutDescriptorsOperatorsStillGetAnswers(t *testing.T) {
	c := startChild(t, nil, "NOFILE=256")
	h := c.pair()
	given(t, "256 files, 600 connections")
	var flood []net.Conn
	for range 600 {
		if conn, err := net.DialTimeout("tcp", c.public, time.Second); err == nil {
			flood = append(flood, conn)
		}
	}
	if got := c.page("/healthz"); !strings.Contains(got, `"status":"ok"`) {
		t.Errorf("/healthz: %s", got)
	}
	if files := c.metric("process_open_fds"); files > 256-8 {
		t.Errorf("%v files are open; want some left for operators", files)
	}
	if !strings.Contains(c.log.String(), "the limit on open files is too low") {
		t.Error("the log does not say that the caps were lowered")
	}
	for _, conn := range flood {
		conn.Close()
	}
	begun := time.Now()
	c.until("newcomers get in again", func() bool {
		conn, _, err := c.dial("/v1/server", "later", "")
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if took := time.Since(begun); took > 5*time.Second+slack {
		t.Errorf("it took %v to recover; want 5s", took)
	}
	h.check()
}

func TestRow21MemoryIsRefusedBeforeItRunsOut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	parallel(t)
	limit := dose(64, 256) << 20
	c := startChild(t, func(cfg *config.Config) { cfg.MemoryLimit = config.Size(limit); cfg.MessageTimeout = time.Minute })
	h := c.pair()
	// Phones each hold back the end of a message that is nearly as long as it
	// may be: three times the limit in all.
	part := frame(0x01, strings.Repeat("1", 200<<10))
	given(t, "three times %d MiB", limit>>20)
	refused := 0
	b := c.slot("s0")
	drained(b)
	for i := range 3 * limit / (200 << 10) {
		if i%16 == 15 {
			conn, resp, err := c.dial("/v1/server", fmt.Sprint("s", i/16+1), "")
			if err == nil {
				drained(conn)
				defer conn.Close()
			} else if resp != nil && resp.StatusCode == 503 {
				refused++
				time.Sleep(10 * time.Millisecond) // as a client that was told to try again
				continue
			}
		}
		conn, err := c.tryRaw("/v1/client", fmt.Sprint("s", i/16), "")
		if err != nil {
			refused++
			continue
		}
		defer conn.Close()
		go conn.Write([]byte(part))
	}
	if refused == 0 && c.metric("pyrycode_relay_memory_closes_total") == 0 {
		t.Error("no connection was refused")
	}
	rss := c.metric("process_resident_memory_bytes")
	if most := float64(limit) * 1.3; rss > most && !raced { // the detector's own memory is not Go's
		t.Errorf("resident memory is %.0f MiB; want at most %.0f", rss/(1<<20), most/(1<<20))
	}
	t.Logf("refused %d, closed %v, resident %.0f MiB of %d", refused, c.metric("pyrycode_relay_memory_closes_total"), rss/(1<<20), limit>>20)
	h.check()
}

func TestRow23ASignalUnderLoadEndsWithACodeForEveryone(t *testing.T) {
	given(t, "%d drains, five busy pairs at each", dose(2, 20))
	for range dose(2, 20) {
		c := startChild(t, nil)
		codes := make(chan int, 20)
		for i := range 5 {
			id := fmt.Sprint("s", i)
			for _, conn := range []*wstest.Conn{c.slot(id), c.mustDial("/v1/client", id)} {
				_ = conn.WriteMessage(wstest.Text, []byte("1"))
				go func() {
					for {
						_, m, err := conn.ReadMessage()
						if e, ok := err.(*wstest.CloseError); ok {
							codes <- e.Code
							return
						}
						if err != nil {
							codes <- 0
							return
						}
						_ = conn.WriteMessage(wstest.Text, m)
					}
				}()
			}
		}
		c.connected(5, 5)
		begun := time.Now()
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if code := <-codes; code != 1001 {
				t.Errorf("closed with %d; want 1001", code)
			}
		}
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("exit: %v; want 0", err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("the drain took %v", took)
		}
	}
}
