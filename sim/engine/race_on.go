//go:build race

package engine

import (
	"runtime"
	"unsafe"
)

// RaceBuild reports whether this build watches for data races.
const RaceBuild = true

// hideOn makes the detector blind to the order that synchronisation on
// this goroutine creates, until hideOff.
//
//go:norace
func hideOn() { runtime.RaceDisable() }

//go:norace
func hideOff() { runtime.RaceEnable() }

// acquire and release state an order that is real.
//
//go:norace
func acquire(p *byte) { runtime.RaceAcquire(unsafe.Pointer(p)) }

//go:norace
func release(p *byte) { runtime.RaceReleaseMerge(unsafe.Pointer(p)) }

func raceErrors() int { return runtime.RaceErrors() }
