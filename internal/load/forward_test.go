package load

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestAForwarderPassesStallsAndCuts(t *testing.T) {
	echo, err := EchoServer(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := Forward(ln, func(net.Conn) (net.Conn, error) { return net.Dial("tcp", echo.Addr().String()) })
	defer f.Close()
	c, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func(s string) error {
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.WriteString(c, s); err != nil {
			return err
		}
		b := make([]byte, len(s))
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if string(b) != s {
			return errors.New(string(b))
		}
		return nil
	}
	if err := say("one"); err != nil {
		t.Fatal(err)
	}
	f.Set(LinkStalled)
	if _, err := io.WriteString(c, "two"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read while it stalls: %v", err)
	}
	f.Set(LinkUp)
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
		t.Errorf("bytes held back during the stall: %v", err)
	}
	f.Set(LinkSlow)
	begun := time.Now()
	if err := say("slow"); err != nil {
		t.Error(err)
	}
	if d := time.Since(begun); d < 2*slowLink {
		t.Errorf("a round trip on the slow link took %v; want at least %v", d, 2*slowLink)
	}
	f.Set(LinkCut)
	if err := say("three"); err == nil {
		t.Error("it passes bytes on though it is cut")
	}
	f.Set(LinkUp)
	if c, err = net.Dial("tcp", f.Addr()); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := say("four"); err != nil {
		t.Error(err)
	}
}

// The function that dials can answer a connection itself.
func TestAForwarderClosesAConnectionThatHasNoOther(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := Forward(ln, func(near net.Conn) (net.Conn, error) {
		_, _ = io.WriteString(near, "none is ready")
		return nil, errors.New("none is ready")
	})
	defer f.Close()
	c, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if b, err := io.ReadAll(c); err != nil || string(b) != "none is ready" {
		t.Errorf("got %q, %v", b, err)
	}
}
