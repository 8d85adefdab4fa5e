package config

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

func TestMain(m *testing.M) {
	directory.Install(provider{})
	goleak.VerifyTestMain(m)
}

// provider finds the first member, and says that the second one is unusual. An etcd refuses the
// user "stranger" and does not answer others.
type provider struct{ directory.Provider }

func (provider) Inspect(_ context.Context, cfg directory.Config) (found, unusual []string, err error) {
	if cfg.User == "stranger" {
		return nil, nil, directory.Final{Err: errors.New("no such user")}
	}
	if len(cfg.Members) == 0 {
		return nil, nil, errors.New("the provider does not answer")
	}
	return []string{"found " + cfg.Members[0]}, []string{"unusual " + cfg.Members[1]}, nil
}

// listenAnywhere makes c listen for other relays on a port that is free.
func listenAnywhere(c *Config) { c.ClusterListen, c.ClusterAdvertise = "127.0.0.1:0", "127.0.0.1:10" }
