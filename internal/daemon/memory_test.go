package daemon

import (
	"log/slog"
	"testing"
)

// shedder counts what is asked of a relay.
type shedder struct{ asked []int }

func (s *shedder) ShedLoad(bytes int) int {
	s.asked = append(s.asked, bytes)
	return 1
}

func TestMemoryThatStaysShortIsFreed(t *testing.T) {
	const limit = 1000
	for _, tt := range []struct {
		name  string
		used  []int64 // at one look each
		asked []int
		full  bool
	}{
		{"enough", []int64{690, 690}, nil, false},
		{"critical", []int64{810}, []int{110}, true},
		{"short for less than a second", []int64{750, 750, 750, 750, 750, 750, 750, 750, 750, 690}, nil, false},
		{"short for a second", []int64{750, 750, 750, 750, 750, 750, 750, 750, 750, 750}, []int{130}, true},
		{"short again", []int64{750, 750, 750, 750, 750, 690, 750, 750, 750, 750, 750, 750}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := new(shedder)
			m := newMemory(slog.New(slog.DiscardHandler))
			m.relay = s
			for _, used := range tt.used {
				m.judge(used, limit)
			}
			if len(s.asked) != len(tt.asked) || len(s.asked) > 0 && s.asked[0] != tt.asked[0] {
				t.Errorf("asked to free %v; want %v", s.asked, tt.asked)
			}
			if got := m.room() != nil; got != tt.full {
				t.Errorf("newcomers are refused: %v; want %v", got, tt.full)
			}
		})
	}
}
