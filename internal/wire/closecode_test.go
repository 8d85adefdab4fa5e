package wire

import (
	"slices"
	"strconv"
	"testing"
)

func TestLegal(t *testing.T) {
	for _, tt := range []struct {
		first, last CloseCode
		want        bool
	}{
		{0, 999, false},
		{1000, 1003, true},
		{1004, 1006, false},
		{1007, 1014, true},
		{1015, 2999, false},
		{3000, 4999, true},
		{5000, 65534, false},
		{65535, 65535, false},
	} {
		for c := int(tt.first); c <= int(tt.last); c++ {
			if got := CloseCode(c).Legal(); got != tt.want {
				t.Errorf("CloseCode(%d).Legal() = %v; want %v", c, got, tt.want)
			}
		}
	}
}

func TestLabelIsOneOfLabels(t *testing.T) {
	all := Labels()
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("Labels() = %q; want it sorted, each once", all)
	}
	seen := map[string]bool{}
	for c := range 1 << 16 {
		label := Label(CloseCode(c))
		if label != "other" && label != strconv.Itoa(c) {
			t.Errorf("Label(%d) = %q; want the number or other", c, label)
		}
		seen[label] = true
	}
	for _, label := range all {
		if !seen[label] {
			t.Errorf("Labels() has %q, which no code has", label)
		}
		delete(seen, label)
	}
	if len(seen) > 0 {
		t.Errorf("labels that Labels() does not have: %v", seen)
	}
}

// The codes of the protocol. No code may disappear.
func TestLabelKnowsTheContract(t *testing.T) {
	for _, c := range []CloseCode{
		CloseNormal, CloseGoingAway, CloseProtocol, 1006, CloseInvalidData, ClosePolicy, CloseTooBig, CloseInternal, CloseRestart,
		4401, CloseNoServer, 4408, CloseServerInUse, 4412, 4421, 4426, CloseTooManyPhones,
	} {
		if got, want := Label(c), strconv.Itoa(int(c)); got != want {
			t.Errorf("Label(%d) = %q; want %q", c, got, want)
		}
	}
	for _, c := range []CloseCode{CloseNone, 1003, 3000, 4000, 4499, 65535} {
		if got := Label(c); got != "other" {
			t.Errorf("Label(%d) = %q; want other", c, got)
		}
	}
}
