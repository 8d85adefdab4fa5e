package front

import (
	"crypto/x509"
	"testing"
	"time"
)

func TestARenewalIsOverdue(t *testing.T) {
	day := 24 * time.Hour
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		last, age time.Duration
		want      bool
	}{
		{90 * day, 59 * day, false}, {90 * day, 74 * day, false}, {90 * day, 76 * day, true}, {90 * day, 100 * day, true},
		{365 * day, 340 * day, false}, {365 * day, 351 * day, true},
		{6 * day, 4 * day, false}, {6 * day, 5*day + 1, true},
	} {
		leaf := &x509.Certificate{NotBefore: from, NotAfter: from.Add(tt.last)}
		if got := overdue(leaf, from.Add(tt.age)); got != tt.want {
			t.Errorf("of %v, after %v: overdue %t; want %t", tt.last, tt.age, got, tt.want)
		}
	}
}

func TestRetryAfterIsRead(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "x": 0, "-5": 0, "0": 0, "120": 2 * time.Minute, "Thu, 01 Jan 2026 01:00:00 GMT": time.Hour, "Thu, 01 Jan 2015 01:00:00 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("retryAfter(%q) = %v; want %v", value, got, want)
		}
	}
}
