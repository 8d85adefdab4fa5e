//go:build !unix

package daemon

// maxFiles is not known here.
func maxFiles() (uint64, bool) { return 0, false }
