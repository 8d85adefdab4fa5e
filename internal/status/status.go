package status

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// Status is the content of /status.json. The names of its fields do not change; later
// versions may add fields.
type Status struct {
	Version       string    `json:"version"`
	Revision      string    `json:"revision"`
	GoVersion     string    `json:"go_version"`
	Now           time.Time `json:"now"`
	Started       time.Time `json:"started"`
	UptimeSeconds int64     `json:"uptime_seconds"`

	Ready       bool   `json:"ready"`
	ReadyReason string `json:"ready_reason"` // why the relay is not ready; empty if it is
	Consistent  bool   `json:"consistent"`   // the gauges agree with the connections
	CheckError  string `json:"check_error"`  // the difference; empty if they agree

	Binaries      int64 `json:"connected_binaries"`
	Phones        int64 `json:"connected_phones"`
	Served        int64 `json:"served_phones"` // connected here, or joined here and connected to another node
	InGrace       int64 `json:"binaries_in_grace"`
	Connections   int64 `json:"connections"`
	WaitingClaims int64 `json:"waiting_claims"`

	Access         string `json:"access"`           // the value of --access
	AccessEntries  int64  `json:"access_entries"`   // of --access-file
	OpenToEveryone bool   `json:"open_to_everyone"` // everyone may use the relay, and it has a public address

	ParkedPhones int64 `json:"parked_phones"`

	FramesPerSecond Flow    `json:"frames_per_second"` // in the last ten seconds
	BytesPerSecond  Flow    `json:"bytes_per_second"`
	OutboxBytes     Backlog `json:"outbox_bytes"`

	Certificate *Certificate `json:"certificate"` // null without TLS
	Cluster     *Cluster     `json:"cluster"`     // null without a cluster
	Limits      []Limit      `json:"limits"`

	Closes []EventCount `json:"closes"` // close messages by code
	// GraceExpiryCloses counts the closes of phones at the end of a grace. Closes
	// has them, too, with code 1000 by the relay.
	GraceExpiryCloses Count        `json:"grace_expiry_closes"`
	Refusals          []EventCount `json:"refusals"`       // upgrade attempts by outcome
	Dropped           []EventCount `json:"dropped_frames"` // by reason

	Peak    Peak    `json:"peak_last_hour"`
	History History `json:"history"`

	past past // the data of the charts
}

// Peak has the largest numbers of connections at one moment.
type Peak struct {
	Binaries int64 `json:"connected_binaries"`
	Phones   int64 `json:"connected_phones"`
	InGrace  int64 `json:"binaries_in_grace"`
	Served   int64 `json:"served_phones"`
}

// Flow is a rate in each direction.
type Flow struct {
	PhoneToBinary float64 `json:"phone_to_binary"`
	BinaryToPhone float64 `json:"binary_to_phone"`
}

// Sum returns the sum of both directions.
func (f Flow) Sum() float64 { return f.PhoneToBinary + f.BinaryToPhone }

// Backlog is the data that waits to be written, in bytes.
type Backlog struct {
	ToBinaries int64 `json:"to_binaries"`
	ToPhones   int64 `json:"to_phones"`
}

// Certificate is the certificate of the public listener.
type Certificate struct {
	NotAfter time.Time `json:"not_after"`
	DaysLeft float64   `json:"days_left"`
	Failures int64     `json:"failures"` // to get or reload one
}

// Cluster is the state of this node in its cluster.
type Cluster struct {
	Connected bool         `json:"connected"`      // the directory answers
	Nodes     int64        `json:"nodes"`          // with a recent heartbeat, including this one
	Claims    int64        `json:"claims"`         // server-ids of this node, including those in grace
	Remote    int64        `json:"remote_phones"`  // joined here, connected to other nodes
	Proxied   int64        `json:"proxied_phones"` // connected here, joined at other nodes
	Streams   int64        `json:"streams"`
	Losses    []EventCount `json:"claim_losses"` // by reason
}

// Limit is the use of one limit.
type Limit struct {
	Name  string  `json:"name"`
	Used  float64 `json:"used"`
	Limit float64 `json:"limit"` // 0: none
}

// EventCount counts one kind of event.
type EventCount struct {
	Label      string `json:"label"`
	By         string `json:"by"` // side or endpoint; may be empty
	LastHour   int64  `json:"last_hour"`
	SinceStart int64  `json:"since_start"`
}

// Count is a number of events.
type Count struct {
	LastHour   int64 `json:"last_hour"`
	SinceStart int64 `json:"since_start"`
}

// History is the last day, oldest first; up to 1,440 points.
type History struct {
	StepSeconds     int       `json:"step_seconds"`
	Binaries        []uint32  `json:"connected_binaries"` // the peak of each step
	Phones          []uint32  `json:"connected_phones"`
	InGrace         []uint32  `json:"binaries_in_grace"`
	FramesPerSecond []float32 `json:"frames_per_second"` // on average
	BytesPerSecond  []float32 `json:"bytes_per_second"`
}

// limits are the metrics that have a ceiling, and where it is.
var limits = [...]struct{ name, used, ceiling string }{
	{"connections", "connections", "limit_connections"},
	{"pending_connections", "pending_connections", "limit_pending_connections"},
	{"open_files", "process_open_fds", "limit_open_files"},
	{"memory_bytes", "process_resident_memory_bytes", "limit_memory_bytes"},
}

// status returns the content of the page, from the current metrics and from earlier ones.
func (p *Page) status() Status {
	now := p.history.observe()
	past := p.history.past()
	peak := past.peakOfLastHour()
	s := Status{
		Version: p.cfg.Version, Revision: p.cfg.Revision, GoVersion: p.cfg.GoVersion,
		Now: now.at.UTC().Truncate(time.Second), Started: p.started.UTC().Truncate(time.Second),
		UptimeSeconds: int64(now.at.Sub(p.started).Seconds()),
		Binaries:      now.count("connected_binaries"), Phones: now.count("connected_phones"), InGrace: now.count("binaries_in_grace"),
		Served: now.count("connected_phones") + now.count("remote_phones"), Connections: now.count("connections"), WaitingClaims: now.count("waiting_claims"), ParkedPhones: now.count("parked_phones"),
		FramesPerSecond: Flow{round(flow(framesUp, past.before, past.last)), round(flow(framesDown, past.before, past.last))},
		BytesPerSecond:  Flow{round(flow(bytesUp, past.before, past.last)), round(flow(bytesDown, past.before, past.last))},
		OutboxBytes:     Backlog{now.count("outbox_bytes{binary}"), now.count("outbox_bytes{phone}")},
		Access:          p.cfg.Access, AccessEntries: now.count("access_entries"), OpenToEveryone: now.count("open_to_everyone") == 1,
		Closes: eventCounts("close_frames_total", 0, past.ago, now),
		Refusals: slices.DeleteFunc(eventCounts("ws_upgrade_attempts_total", 1, past.ago, now),
			func(t EventCount) bool { return t.Label == "accept" }),
		Dropped: eventCounts("dropped_frames_total", 0, past.ago, now),
		Peak:    Peak{int64(peak.binaries), int64(peak.phones), int64(peak.inGrace), int64(peak.served)},
		History: past.history(),
		past:    past,
		GraceExpiryCloses: Count{
			LastHour:   now.count("grace_expiry_closes_total") - past.ago.count("grace_expiry_closes_total"),
			SinceStart: now.count("grace_expiry_closes_total"),
		},
	}
	s.ReadyReason = p.cfg.Ready()
	s.Ready = s.ReadyReason == ""
	if err := p.cfg.Check(); err != nil {
		s.CheckError = err.Error()
	}
	s.Consistent = s.CheckError == ""
	for _, l := range limits {
		s.Limits = append(s.Limits, Limit{l.name, now.values[l.used], now.values[l.ceiling]})
	}
	if end := now.count("tls_certificate_not_after_timestamp_seconds"); end != 0 {
		t := time.Unix(end, 0).UTC()
		s.Certificate = &Certificate{NotAfter: t, DaysLeft: round(t.Sub(now.at).Hours() / 24),
			Failures: now.count("tls_certificate_failures_total")}
	}
	if connected, ok := now.values["cluster_directory_answers"]; ok {
		s.Cluster = &Cluster{Connected: connected == 1, Nodes: now.count("cluster_nodes"), Claims: now.count("cluster_claims"),
			Remote: now.count("remote_phones"), Streams: now.count("cluster_streams"), Proxied: max(0, now.count("cluster_streams")-now.count("remote_phones")),
			Losses: eventCounts("cluster_claim_losses_total", 0, past.ago, now)}
	}
	return s
}

// eventCounts returns the series of one counter that are not 0. label is the index of the
// label value that becomes Label; the other value, if there is one, becomes By.
func eventCounts(name string, label int, ago, now reading) []EventCount {
	all := []EventCount{} // [] in JSON, not null
	for key, v := range now.values {
		inner, ok := strings.CutPrefix(key, name+"{")
		if !ok || v == 0 {
			continue
		}
		values := strings.Split(strings.TrimSuffix(inner, "}"), ",")
		t := EventCount{Label: values[label], SinceStart: int64(v), LastHour: int64(v - ago.values[key])}
		if len(values) == 2 {
			t.By = values[1-label]
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b EventCount) int {
		return cmp.Or(cmp.Compare(b.LastHour, a.LastHour), cmp.Compare(b.SinceStart, a.SinceStart),
			cmp.Compare(a.Label, b.Label), cmp.Compare(a.By, b.By))
	})
	return all
}

func (p past) history() History {
	n := len(p.points)
	h := History{StepSeconds: int(pointEvery / time.Second), Binaries: make([]uint32, n), Phones: make([]uint32, n),
		InGrace: make([]uint32, n), FramesPerSecond: make([]float32, n), BytesPerSecond: make([]float32, n)}
	for i, m := range p.points {
		h.Binaries[i], h.Phones[i], h.InGrace[i] = m.binaries, m.phones, m.inGrace
		h.FramesPerSecond[i], h.BytesPerSecond[i] = m.frames, m.bytes
	}
	return h
}

// round rounds to one decimal place.
func round(x float64) float64 { return math.Round(x*10) / 10 }
