package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// proxyAddress is the address that proxies listen on.
const proxyAddress = "127.77.0.1"

// relayPorts is the number of ports that a relay opens for the others, one after the other.
const relayPorts = 3

// newProxy returns a proxy in front of an address.
func newProxy(to string) (*load.Forwarder, error) {
	ln, err := net.Listen("tcp", proxyAddress+":0")
	if err != nil {
		return nil, err
	}
	return load.Forward(ln, func(net.Conn) (net.Conn, error) { return net.DialTimeout("tcp", to, 5*time.Second) }), nil
}

// innerProxy is in front of the ports that one relay opens for the others. It has one forwarder
// for each other relay, so that each pair can be disconnected. All relays dial the same address;
// the proxy finds out by the socket which process has dialled.
type innerProxy struct {
	to     string // the relay's own address
	ports  []net.Listener
	relays *trio

	mu    sync.Mutex // guards all below
	from  map[int]*pairListener
	ended bool
	tasks sync.WaitGroup
}

// pairListener is the listener of the forwarder for one pair: the proxy hands it the
// connections that one relay has dialled.
type pairListener struct {
	forwarder *load.Forwarder
	conns     chan net.Conn
	done      chan struct{}
	once      sync.Once
	addr      net.Addr
}

func (l *pairListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pairListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pairListener) Addr() net.Addr { return l.addr }

// newInnerProxy returns a proxy in front of new addresses, for one of the relays.
func newInnerProxy(relays *trio) (p *innerProxy, err error) {
	p = &innerProxy{relays: relays, from: make(map[int]*pairListener)}
	if p.to, err = wstest.FreeAddress(relayPorts); err != nil {
		return nil, err
	}
	if p.ports, err = wstest.ListenInRow(proxyAddress, relayPorts); err != nil {
		return nil, err
	}
	for k, ln := range p.ports {
		p.tasks.Go(func() { p.accept(ln, k) })
	}
	return p, nil
}

// addr returns the address that other relays dial.
func (p *innerProxy) addr() string { return p.ports[0].Addr().String() }

// accept hands the connections to port k to the forwarders of their pairs.
func (p *innerProxy) accept(ln net.Listener, k int) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		p.tasks.Go(func() {
			// The others dial a relay that has ended ten times a second, and dialler reads the
			// list of all sockets.
			if !p.relays.runs(p) {
				_ = c.(*net.TCPConn).SetLinger(0) // as if nothing listened
				c.Close()
				return
			}
			l := p.pair(dialler(c, p.relays.pids()))
			if l == nil {
				c.Close()
				return
			}
			select {
			case l.conns <- c:
			case <-l.done:
				c.Close()
			}
		})
	}
}

// pair returns the listener for connections of relay i, or nil after close.
func (p *innerProxy) pair(i int) *pairListener {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	l := p.from[i]
	if l == nil {
		l = &pairListener{conns: make(chan net.Conn), done: make(chan struct{}), addr: p.ports[0].Addr()}
		l.forwarder = load.Forward(l, p.dial)
		p.from[i] = l
	}
	return l
}

// dial connects to the port of the relay that belongs to the one that near has dialled.
func (p *innerProxy) dial(near net.Conn) (net.Conn, error) {
	host, first, err := net.SplitHostPort(p.to)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(first)
	if err != nil {
		return nil, err
	}
	k := near.LocalAddr().(*net.TCPAddr).Port - p.ports[0].Addr().(*net.TCPAddr).Port
	return net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port+k)), 5*time.Second)
}

// set puts the connections that relay i dials into state l.
func (p *innerProxy) set(i int, l load.Link) {
	if one := p.pair(i); one != nil {
		one.forwarder.Set(l)
	}
}

func (p *innerProxy) close() {
	p.mu.Lock()
	p.ended = true
	all := p.from
	p.mu.Unlock()
	for _, ln := range p.ports {
		ln.Close()
	}
	for _, l := range all {
		l.Close()
		l.forwarder.Close()
	}
	p.tasks.Wait()
}

// dialler returns the index of the process among pids that has dialled c from this machine, or
// -1.
func dialler(c net.Conn, pids []int) int {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return -1
	}
	sockets, err := fs.NetTCP() //lint:ignore SA1019 the replacement needs a module for netlink
	if err != nil {
		return -1
	}
	near, inode := c.RemoteAddr().(*net.TCPAddr), ""
	for _, s := range sockets {
		if int(s.LocalPort) == near.Port && s.LocalAddr.Equal(near.IP) {
			inode = fmt.Sprintf("socket:[%d]", s.Inode)
		}
	}
	for i, pid := range pids {
		if p, err := fs.Proc(pid); err == nil {
			targets, err := p.FileDescriptorTargets()
			if err == nil && slices.Contains(targets, inode) {
				return i
			}
		}
	}
	return -1
}
