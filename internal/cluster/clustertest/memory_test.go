package clustertest

import "testing"

func TestMemoryFollowsTheContracts(t *testing.T) {
	m := NewMemory(nil)
	defer m.Close()
	TestDirectory(t, m.Port(), m.Port())
}
