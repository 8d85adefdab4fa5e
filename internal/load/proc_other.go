//go:build !linux

package load

import (
	"errors"
	"time"
)

var errNoProc = errors.New("--pid works on Linux only: omit it")

func CPU(int) (time.Duration, error) { return 0, errNoProc }
func RSS(int) (int64, error)         { return 0, errNoProc }
