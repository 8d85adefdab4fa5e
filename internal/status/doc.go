// Package status is the status page for operators: the connections, the use of the
// limits, the closes and the refusals, and the history of the last 24 hours.
//
// All its values come from the metrics that Prometheus scrapes, so that page and metrics
// always agree. The exception is the peaks of the connections, which the relay records
// itself. A [Page] samples the metrics every ten seconds and keeps one point per minute,
// in rings: 1,440 points, and 61 readings of about 200 values. They need 170 KB after the
// first hour.
//
// Of this module it may import internal/relay. Begin with [Page].
package status
