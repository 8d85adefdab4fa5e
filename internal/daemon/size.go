package daemon

import (
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as 262144, 256KiB or 4MiB.
type Size int

var sizeUnits = [...]struct {
	suffix string
	bytes  int
}{
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"B", 1},
	{"", 1},
}

// ParseSize reads a size. The error is a [*ParseError].
func ParseSize(text string) (Size, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt/int64(u.bytes) || n < math.MinInt/int64(u.bytes) {
			break
		}
		return Size(int(n) * u.bytes), nil
	}
	return 0, &ParseError{"must be a size in bytes, KiB, MiB or GiB", "for example 262144 or 256KiB"}
}

// String is the shortest text that [ParseSize] reads as s.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int(s)%u.bytes == 0 {
			return strconv.Itoa(int(s)/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(int(s)) + "B"
}
