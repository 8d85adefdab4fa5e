package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// hint adds to an error what to do about it, where that is known.
func hint(err error) error {
	switch s := err.Error(); {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; is the relay running?", err)
	case strings.Contains(s, "HTTP 429"):
		return fmt.Errorf("%w; start the relay with a higher --rate and --burst", err)
	case strings.Contains(s, "HTTP 503"):
		return fmt.Errorf("%w; start the relay with a higher --max-conns or --max-conns-per-address", err)
	case strings.Contains(s, "close 4429"):
		return fmt.Errorf("%w; start the relay with a higher --max-phones, or ask for fewer --phones", err)
	}
	return err
}
