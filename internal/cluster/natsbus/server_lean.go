//go:build lean

package natsbus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
)

// HasServer reports whether this program has the NATS server of [Serve].
const HasServer = false

// Server stands for the NATS server that this program does not have. No value of it
// exists.
type Server struct{}

// Serve returns an error.
func Serve(context.Context, ServerConfig) (*Server, error) {
	return nil, errors.New("this program was built without a NATS server (tag lean)")
}

// Leads returns false.
func (*Server) Leads(string) bool { return false }

// Close does nothing.
func (*Server) Close() {}

func (*Server) dial() (url string, opts []nats.Option) { return "", nil }
