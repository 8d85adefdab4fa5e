//go:build !race

package engine

// RaceBuild reports whether this build watches for data races.
const RaceBuild = false

func hideOn()         {}
func hideOff()        {}
func acquire(*byte)   {}
func release(*byte)   {}
func raceErrors() int { return 0 }
