//go:build !linux

package main

import (
	"errors"
	"time"
)

var errNoProc = errors.New("a process can be looked at on Linux only: leave out --pid")

func cpuOf(int) (time.Duration, error) { return 0, errNoProc }
func rssOf(int) (int64, error)         { return 0, errNoProc }
