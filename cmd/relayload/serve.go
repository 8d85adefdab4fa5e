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
