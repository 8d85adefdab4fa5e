package cluster_test

import (
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/conform"
)

func TestMemoryKeepsThePromises(t *testing.T) {
	m := cluster.NewMemory(nil)
	defer m.Close()
	conform.Run(t, m.Port(), m.Port())
}
