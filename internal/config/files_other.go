//go:build !unix

package config

import "io/fs"

// nonBlocking is not known here.
const nonBlocking = 0

// MaxFiles is not known here.
func MaxFiles() (uint64, bool) { return 0, false }

// isRoot is not known here.
func isRoot() bool { return false }

// ownedByUs is not known here.
func ownedByUs(fs.FileInfo) bool { return true }

// fileID identifies a file by name, kind and time of modification.
func fileID(info fs.FileInfo) string {
	return info.Name() + " " + info.Mode().Type().String() + " " + info.ModTime().String()
}

// access always succeeds: this system offers no test without a change. The first use
// of the file fails instead.
func access(string, bool) error { return nil }
