//go:build cluster

package main

import (
	"bufio"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestTheProgramWithClustersSaysSo(t *testing.T) {
	if got := call(t.Context(), nil, "version"); !strings.Contains(got.stdout, ", with clusters)") {
		t.Errorf("version: %+v", got)
	}
}

// check names an etcd that it cannot reach within five seconds.
func TestCheckNamesAnEtcdThatDoesNotAnswer(t *testing.T) {
	got := call(t.Context(), []string{clusterSecret}, "check", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:1",
		"--cluster", "http://127.0.0.1:1")
	if got.code != done || !strings.Contains(got.stdout, "the directory does not answer") {
		t.Errorf("got %+v", got)
	}
}

func TestASignalEndsAStartThatWaitsForItsCluster(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and no program answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, at := range []string{silent.Addr().String(), closed.Addr().String()} {
		listen, err := wstest.FreeAddress(1)
		if err != nil {
			t.Fatal(err)
		}
		cmd, log := withLog(t, append(onFreePorts, "--cluster-listen", listen, "--cluster", "http://"+at)...)
		lines := bufio.NewScanner(log)
		if !lines.Scan() || !strings.Contains(lines.Text(), `"msg":"joining the cluster`) {
			t.Fatalf("the relay logs %q", lines.Text())
		}
		begun := time.Now()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if log := rest(lines); !strings.Contains(log, `"msg":"ending before it was ready"`) {
			t.Errorf("the log does not say why it ends:\n%s", log)
		}
		endsWell(t, cmd)
		t.Logf("%s: the relay ended %v after the signal", at, time.Since(begun))
	}
}
