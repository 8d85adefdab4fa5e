// Package status is the page that operators see first: what is connected,
// how full the limits are, who left and who was turned away, and the last
// 24 hours of it.
//
// Everything on it comes from the metrics that Prometheus scrapes, so that
// page and metrics cannot disagree, apart from the peaks of what is connected:
// the relay itself notes those. A [Page] samples the metrics every ten seconds
// and keeps one point a minute, in rings: 1,440 points, and 61 readings of some
// 200 values, 170 KB in all when the first hour is over.
package status
