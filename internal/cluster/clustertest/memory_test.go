package clustertest

import "testing"

func TestMemoryKeepsThePromises(t *testing.T) {
	m := NewMemory(nil)
	defer m.Close()
	TestConnections(t, m.Port(), m.Port())
}
