package relay

import "testing"

// Peaks include every moment, however short. After they are taken, they start from the
// current counts.
func TestPeaksIncludeEveryMoment(t *testing.T) {
	b := newTestRegistry(16)
	for _, tt := range []struct {
		steps []string
		want  Peaks
	}{
		{nil, Peaks{}},
		{[]string{"claim b1", "join 1", "join 2", "join 3", "leave 1", "leave 2"}, Peaks{Binaries: 1, Phones: 3, Served: 3}},
		{nil, Peaks{Binaries: 1, Phones: 1, Served: 1}},
		{[]string{"release b1", "claim b2"}, Peaks{Binaries: 1, Phones: 1, InGrace: 1, Served: 1}}, // the phone is evicted
		{[]string{"claim b3 s2", "release b3 s2", "join 4"}, Peaks{Binaries: 2, Phones: 1, InGrace: 1, Served: 1}},
	} {
		for _, step := range tt.steps {
			b.step(step)
		}
		if got := b.TakePeaks(); got != tt.want {
			t.Errorf("%q: %+v; want %+v", tt.steps, got, tt.want)
		}
	}
	b.JoinRemote("s1", 5)
	b.CountProxied(6)
	b.UncountProxied(6)
	if got, want := b.TakePeaks(), (Peaks{Binaries: 1, Phones: 2, InGrace: 1, Served: 3}); got != want {
		t.Errorf("with remote phones: %+v; want %+v", got, want)
	}
}
