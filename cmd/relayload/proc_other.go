//go:build !linux

package main

import (
	"errors"
	"time"
)

var errNoProc = errors.New("--pid works on Linux only: omit it")

func cpuOf(int) (time.Duration, error) { return 0, errNoProc }
func rssOf(int) (int64, error)         { return 0, errNoProc }
