package daemon

import (
	"log/slog"
	"slices"
	"testing"
)

// shedder counts what is asked of a relay, or of its front.
type shedder struct {
	asked []int
	frees int // what the front returns
	held  int
}

func (s *shedder) ShedLoad(bytes int) int {
	s.asked = append(s.asked, bytes)
	return s.frees
}

func (s *shedder) Held() int { return s.held }

func TestMemoryThatStaysShortIsFreed(t *testing.T) {
	const limit = 1000
	for _, tt := range []struct {
		name    string
		used    []int64 // at one look each
		pending int     // what connections hold that are not upgraded
		held    int     // what the others hold
		cut     []int   // asked of the front
		asked   []int   // asked of the relay
		full    bool
	}{
		{"enough", []int64{690, 690}, 0, 500, nil, nil, false},
		{"critical", []int64{810}, 0, 500, []int{190}, []int{110}, true},
		{"critical, partly for pending connections", []int64{810}, 60, 500, []int{190}, []int{50}, true},
		{"critical, for pending connections", []int64{810}, 110, 500, []int{190}, nil, true},
		{"critical, but not for peers", []int64{810}, 0, 26, []int{190}, nil, true},
		{"critical, perhaps for peers", []int64{810}, 0, 27, []int{190}, []int{110}, true},
		{"short for less than a second", []int64{750, 750, 750, 750, 750, 750, 750, 750, 750, 690}, 0, 500, []int{130}, nil, false},
		{"short for a second", []int64{750, 750, 750, 750, 750, 750, 750, 750, 750, 750}, 0, 500, []int{130}, []int{130}, true},
		{"short again", []int64{750, 750, 750, 750, 750, 690, 750, 750, 750, 750, 750, 750}, 0, 500, []int{130}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, f := &shedder{frees: 1, held: tt.held}, &shedder{frees: tt.pending}
			m := newMemory(slog.New(slog.DiscardHandler))
			m.relay, m.front = s, f
			for _, used := range tt.used {
				shed := m.judge(used, limit)
				if want := len(s.asked) > 0 || tt.pending > 0; used >= critical*limit && shed != want {
					t.Errorf("judge says that it closed some: %v; want %v", shed, want)
				}
			}
			if !slices.Equal(s.asked, tt.asked) {
				t.Errorf("the relay is asked to free %v; want %v", s.asked, tt.asked)
			}
			if len(f.asked) > 0 != (len(tt.cut) > 0) || len(f.asked) > 0 && f.asked[0] != tt.cut[0] {
				t.Errorf("the front is asked to free %v; want %v", f.asked, tt.cut)
			}
			if got := m.room() != nil; got != tt.full {
				t.Errorf("newcomers are refused: %v; want %v", got, tt.full)
			}
		})
	}
}
