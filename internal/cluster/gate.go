package cluster

// gate is the Gate outside the simulator.
type gate chan struct{}

func newGate() Gate { return make(gate, 1) }

func (g gate) Wait() { <-g }

func (g gate) Open() {
	select {
	case g <- struct{}{}:
	default:
	}
}
