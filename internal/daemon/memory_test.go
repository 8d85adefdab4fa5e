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

func TestMemoryIsReturnedAfterABurst(t *testing.T) {
	const mb = 1 << 20
	var trim trimmer
	for _, tt := range []struct {
		what string
		heap heap
		want bool
	}{
		{"the start", heap{live: 10 * mb, dead: 20 * mb, allocated: 30 * mb}, false},
		{"a burst", heap{live: 100 * mb, dead: 40 * mb, allocated: 900 * mb}, false},
		{"after it", heap{live: 100 * mb, dead: 40 * mb, allocated: 900*mb + 1000}, true},
		{"trimmed", heap{live: 110 * mb, dead: 1 * mb, allocated: 900*mb + 2000}, false},
		{"a little garbage", heap{live: 110 * mb, dead: 13 * mb, allocated: 900*mb + 3000}, false},
		{"a small process", heap{live: 3 * mb, dead: 3 * mb, allocated: 900*mb + 4000}, false},
		{"more garbage", heap{live: 110 * mb, dead: 15 * mb, allocated: 900*mb + 5000}, true},
	} {
		if got := trim.worthwhile(tt.heap); got != tt.want {
			t.Errorf("%s: %v; want %v", tt.what, got, tt.want)
		}
	}
	if h := heapNow(); h.live > 1<<40 || h.dead > 1<<40 || h.allocated == 0 {
		t.Errorf("the heap is %+v", h)
	}
}
