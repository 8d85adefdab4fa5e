package main

import (
	"fmt"
	"net"
	"net/http"

	"github.com/pyrycode/pyrycode-relay/internal/bench"
)

type serveBaseline struct {
	TLSCert string `name:"tls-cert"`
	TLSKey  string `name:"tls-key"`
}

// Run is called by kong.
func (s *serveBaseline) Run(e *env) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, ln.Addr())
	go func() { <-e.ctx.Done(); ln.Close() }()
	if s.TLSCert != "" {
		_ = http.ServeTLS(ln, bench.NewBaseline().Handler(), s.TLSCert, s.TLSKey)
		return nil
	}
	_ = http.Serve(ln, bench.NewBaseline().Handler())
	return nil
}

type serveSplice struct {
	To string `required:"" help:"host:port to copy to."`
}

// Run is called by kong.
func (s *serveSplice) Run(e *env) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, ln.Addr())
	go func() { <-e.ctx.Done(); ln.Close() }()
	_ = bench.Splice(ln, s.To)
	return nil
}

// echoServer is what a copier of bytes copies to: it sends back all it gets.
func echoServer() (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn = quick(conn)
			go func() {
				defer conn.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := conn.Read(b)
					if err == nil {
						_, err = conn.Write(b[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln, nil
}
