// Package earlysignals catches the signals that come before main has begun.
//
// Go initializes packages in the order of their import paths, each as soon as the
// packages that it imports are ready. This one imports os/signal only, so it is
// initialized before the packages that make the start of the process long. A
// signal that comes even earlier, while the runtime itself starts, has the
// kernel's default action: it ends the process.
package earlysignals

import (
	"os"
	"os/signal"
	"syscall"
)

var caught = make(chan os.Signal, 8)

func init() {
	signal.Notify(caught, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
}

// Handover stops catching signals and sends those caught so far to stop, or to
// reload if they are SIGHUP. The caller must have called signal.Notify for both
// before, so that no signal is lost. A channel that is full is left as it is.
func Handover(stop, reload chan<- os.Signal) {
	signal.Stop(caught)
	for {
		select {
		case s := <-caught:
			to := stop
			if s == syscall.SIGHUP {
				to = reload
			}
			select {
			case to <- s:
			default:
			}
		default:
			return
		}
	}
}
