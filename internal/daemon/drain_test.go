package daemon

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// connected opens a binary and a phone and waits until both are counted.
func connected(d *running) (binary, phone *wstest.Conn) {
	d.t.Helper()
	binary = d.dial("/v1/server")
	d.until("the binary is counted", func() bool { return d.p.relay.Counts().Binaries == 1 })
	phone = d.dial("/v1/client")
	d.until("the phone is counted", func() bool { return d.p.relay.Counts().Phones == 1 })
	return binary, phone
}

func TestASignalClosesEveryoneAndEndsWell(t *testing.T) {
	d := start(t, t.Context(), nil)
	binary, phone := connected(d)
	d.signals <- syscall.SIGTERM
	for name, c := range map[string]*wstest.Conn{"binary": binary, "phone": phone} {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _, err := c.ReadMessage()
		e, ok := errors.AsType[*wstest.CloseError](err)
		if !ok || e.Code != 1001 || e.Text != "shutting down" {
			t.Errorf("%s: %v; want close 1001 shutting down", name, err)
		}
	}
	if err := d.end(); err != nil {
		t.Errorf("Run() = %v; want nil", err)
	}
	for _, want := range []string{"msg=ending signal=terminated", "binaries=1 phones=1", "msg=drained", "msg=stopped"} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, d.log)
		}
	}
}

func TestTheEndOfTheContextIsAnEndToo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := start(t, ctx, nil)
	cancel()
	if err := d.end(); err != nil {
		t.Errorf("Run() = %v; want nil", err)
	}
}

func TestABrokenListenerIsAnError(t *testing.T) {
	d := start(t, t.Context(), nil)
	broken := errors.New("listener broke")
	d.stop.Fail(broken)
	if err := d.end(); !errors.Is(err, broken) {
		t.Errorf("Run() = %v; want %v", err, broken)
	}
}

// stubborn peers never read, so they do not answer a close message.
func stubborn(c *config.Config) { c.Linger, c.Drain = time.Minute, time.Hour }

func TestWhileDrainingItSaysSoAndTheSecondSignalEndsIt(t *testing.T) {
	d := start(t, t.Context(), stubborn)
	connected(d)
	d.signals <- syscall.SIGINT
	d.until("/readyz says draining", func() bool {
		status, _, body := get(t, "http://"+d.private+"/readyz")
		return status == 503 && body == "not ready: draining\n"
	})
	d.until("the public listener is closed", func() bool {
		c, err := net.Dial("tcp", d.public)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	d.until("a scrape while draining shows 0 phones", func() bool {
		_, _, body := get(t, "http://"+d.private+"/metrics")
		return strings.Contains(body, "\npyrycode_relay_connected_phones 0\n")
	})
	d.until("it says what it waits for", func() bool { return strings.Contains(d.log.String(), "still draining") })
	d.signals <- syscall.SIGINT
	if err := d.end(); err != nil {
		t.Errorf("Run() = %v; want nil", err)
	}
	if want := `why="second signal: interrupt"`; !strings.Contains(d.log.String(), want) {
		t.Errorf("no %q in the log:\n%s", want, d.log)
	}
}

func TestADrainThatTakesTooLongCuts(t *testing.T) {
	for _, limit := range []time.Duration{0, 50 * time.Millisecond} {
		d := start(t, t.Context(), func(c *config.Config) { stubborn(c); c.Drain = limit })
		_, phone := connected(d)
		d.signals <- syscall.SIGTERM
		if err := d.end(); err != nil {
			t.Errorf("Run() = %v; want nil", err)
		}
		if want := `why="time is up"`; !strings.Contains(d.log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, d.log)
		}
		_ = phone.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := phone.ReadMessage(); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("phone: %v; want the end of its connection", err)
		}
	}
}

// In the time for balancers new clients are served. A second signal ends that time.
func TestBalancersHaveTimeToNotice(t *testing.T) {
	d := start(t, t.Context(), func(c *config.Config) { stubborn(c); c.DrainWait = time.Minute })
	d.signals <- syscall.SIGTERM
	d.until("/readyz says draining", func() bool {
		status, _, body := get(t, "http://"+d.private+"/readyz")
		return status == 503 && body == "not ready: draining\n"
	})
	connected(d)
	d.signals <- syscall.SIGTERM
	if err := d.end(); err != nil {
		t.Errorf("Run() = %v; want nil", err)
	}
	if want := `why="second signal: terminated"`; !strings.Contains(d.log.String(), want) {
		t.Errorf("no %q in the log:\n%s", want, d.log)
	}
}

func TestTheTimeForBalancersEnds(t *testing.T) {
	told := new(states)
	const wait = 50 * time.Millisecond
	d := startEnv(t, t.Context(), func(c *config.Config) { c.DrainWait = wait }, Env{Supervisor: Supervisor{Notify: told.notify}})
	binary, phone := connected(d)
	begun := time.Now()
	d.signals <- syscall.SIGTERM
	for name, c := range map[string]*wstest.Conn{"binary": binary, "phone": phone} {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := c.ReadMessage(); !wstest.IsClose(err, 1001) {
			t.Errorf("%s: %v; want close 1001", name, err)
		}
		if got := time.Since(begun); got < wait {
			t.Errorf("%s: closed after %s; want %s or more", name, got, wait)
		}
	}
	if err := d.end(); err != nil {
		t.Errorf("Run() = %v; want nil", err)
	}
	if got, want := told.String(), "READY=1 STOPPING=1 STOPPING=1"; got != want {
		t.Errorf("the supervisor was told %q; want %q", got, want)
	}
}

// After a listener has failed, a drain does not wait for balancers.
func TestABrokenListenerDoesNotWaitForBalancers(t *testing.T) {
	d := start(t, t.Context(), func(c *config.Config) { c.DrainWait = time.Minute })
	broken := errors.New("listener broke")
	d.stop.Fail(broken)
	if err := d.end(); !errors.Is(err, broken) {
		t.Errorf("Run() = %v; want %v", err, broken)
	}
}

func TestReadinessStartsWithAReason(t *testing.T) {
	p, err := newProcess(t.Context(), config.Default(), Env{Log: new(syncBuffer)})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.ready.get(); got != "starting" {
		t.Errorf("before it runs it is %q; want starting", got)
	}
}
