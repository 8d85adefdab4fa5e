package main

import (
	"net"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// link is the state of a proxy.
type link int

const (
	linkUp      link = iota
	linkStalled      // no bytes move and connections stay open, like with packet loss
	linkCut          // connections are reset and refused
)

// proxyAddress is the address that proxies listen on and dial from. NATS servers
// tell each other the addresses of their peers. With this address they can only
// find proxies, so that no route bypasses a proxy.
const proxyAddress = "127.77.0.1"

// proxy forwards connections to one address.
type proxy struct {
	ln net.Listener
	to string

	mu      sync.Mutex // guards all below
	changed sync.Cond
	link    link
	closed  bool
	conns   map[net.Conn]struct{}

	tasks sync.WaitGroup
}

func newProxy(to string) (*proxy, error) {
	ln, err := net.Listen("tcp", proxyAddress+":0")
	if err != nil {
		return nil, err
	}
	p := &proxy{ln: ln, to: to, conns: make(map[net.Conn]struct{})}
	p.changed.L = &p.mu
	p.tasks.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.tasks.Go(func() { p.join(c) })
	}
}

// join connects c to the address and forwards bytes until one side ends.
func (p *proxy) join(c net.Conn) {
	if !p.enter(c) {
		return
	}
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(proxyAddress)}}
	far, err := d.Dial("tcp", p.to)
	if err != nil || !p.enter(far) {
		p.leave(c)
		return
	}
	p.tasks.Go(func() { p.pump(c, far) })
	p.pump(far, c)
}

// enter registers c and waits while the link is stalled. If the link is cut or
// the proxy closed, it resets c and returns false.
func (p *proxy) enter(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	for p.link == linkStalled && !p.closed {
		p.changed.Wait()
	}
	if p.link == linkCut || p.closed {
		wstest.Reset(c)
		delete(p.conns, c)
		return false
	}
	return true
}

func (p *proxy) leave(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *proxy) pump(from, to net.Conn) {
	defer p.leave(from)
	defer p.leave(to)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.link == linkStalled && !p.closed {
			p.changed.Wait()
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// set changes the state of the proxy for new and for existing connections.
func (p *proxy) set(l link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
	if l == linkCut {
		for c := range p.conns {
			wstest.Reset(c)
		}
	}
	p.changed.Broadcast()
}

func (p *proxy) close() {
	p.ln.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	p.tasks.Wait()
}
