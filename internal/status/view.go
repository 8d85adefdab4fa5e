package status

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// view is what the status page shows.
type view struct {
	Status
	Links []Link
	Still bool
}

// Charts, each with its own scale.
func (v view) BinariesChart() chart {
	return v.chart("Binaries", float64(v.Binaries), whole, func(p point) float64 { return float64(p.binaries) })
}
func (v view) PhonesChart() chart {
	return v.chart("Phones", float64(v.Served), whole, func(p point) float64 { return float64(p.served) })
}
func (v view) FramesChart() chart {
	return v.chart("Frames per second", v.FramesPerSecond.Sum(), amount, func(p point) float64 { return float64(p.mostFrames) })
}
func (v view) BytesChart() chart {
	return v.chart("Bytes per second", v.BytesPerSecond.Sum(), bytes, func(p point) float64 { return float64(p.mostBytes) })
}

// Bars returns the bars of the limits.
func (v view) Bars() (bars []bar) {
	for _, l := range v.Limits {
		b := bar{Name: limitNames[l.Name], Used: count(int64(l.Used)), Limit: count(int64(l.Limit))}
		if l.Name == "memory_bytes" {
			b.Used, b.Limit = bytes(l.Used), bytes(l.Limit)
		}
		if l.Limit > 0 {
			b.Share = math.Round(1000*min(1, l.Used/l.Limit)) / 10
			b.Class, b.Word = "ok", ""
			switch {
			case b.Share >= 95:
				b.Class, b.Word = "bad", "full"
			case b.Share >= 80:
				b.Class, b.Word = "warn", "nearly full"
			}
		} else {
			b.Limit = ""
		}
		bars = append(bars, b)
	}
	return bars
}

type bar struct {
	Name, Used, Limit string
	Share             float64 // in percent
	Class, Word       string
}

var limitNames = map[string]string{
	"connections": "Connections", "pending_connections": "Waiting to be upgraded",
	"open_files": "Open files", "memory_bytes": "Memory",
}

// chart is a line over time, in a box of 600 by 100. Its width stands for the age of the
// process, at most a day.
type chart struct {
	Title, Desc string
	Line, Area  string // points of a polyline and of the area below it
	Ticks       []tick
	Window      string // the time that the width stands for
	Peak        string
}

// tick is a mark on the time axis.
type tick struct {
	At      string // in the box
	Percent string // of the width
	Anchor  string // of the label's text
	Label   string
	Rank    string // "", lesser or minor; narrow pages omit lesser and minor marks
}

// moment is a value at a time.
type moment struct {
	at    time.Time
	value float64
}

// chart draws the values that of returns for each minute, and the current value now. say
// formats a value.
func (v view) chart(title string, now float64, say func(float64) string, of func(point) float64) chart {
	to := v.Now
	from, young := v.Started, true
	if to.Sub(from) > 24*time.Hour {
		from, young = to.Add(-24*time.Hour), false
	}
	if to.Sub(from) < SampleEvery {
		from = to.Add(-SampleEvery)
	}
	var all []moment
	began := from // begin of the current minute
	if young {
		all = append(all, moment{from, 0})
	}
	for _, p := range v.past.points {
		if t := time.Unix(int64(p.end), 0).UTC(); !t.Before(from) {
			all = append(all, moment{t, of(p)})
			began = t
		}
	}
	all = append(all, moment{began.Add(to.Sub(began) / 2), max(now, of(v.past.runs))}, moment{to, now})
	c := draw(all, from, to)
	c.Title, c.Window, c.Peak = title, "last 24 hours, UTC", peak(all, to, say)
	if young {
		c.Window = "since " + clockTime(from, to) + " UTC"
	}
	c.Desc = fmt.Sprintf("%s, %s: now %s, %s.", title, c.Window, say(now), c.Peak)
	return c
}

// draw draws values, which must be sorted by time and end at to.
func draw(values []moment, from, to time.Time) chart {
	most := 1e-9
	for _, m := range values {
		most = max(most, m.value)
	}
	var line strings.Builder
	first := ""
	for i, m := range values {
		x := short(600 * min(1, max(0, share(m.at, from, to))))
		if i == 0 {
			first = x
		}
		fmt.Fprintf(&line, "%s,%s ", x, short(96-92*m.value/most))
	}
	c := chart{Line: strings.TrimSpace(line.String()), Ticks: ticks(from, to)}
	c.Area = first + ",100 " + c.Line + " 600,100"
	return c
}

// share returns the position of t between from and to, from 0 to 1.
func share(t, from, to time.Time) float64 { return t.Sub(from).Seconds() / to.Sub(from).Seconds() }

// peak returns a text with the greatest value of the last hour, and with the greatest one
// before that if it is greater.
func peak(values []moment, to time.Time, say func(float64) string) string {
	var ever, recent moment
	for _, m := range values {
		if m.value > ever.value {
			ever = m
		}
		if m.value > recent.value && m.at.After(to.Add(-time.Hour-pointEvery)) {
			recent = m
		}
	}
	switch {
	case ever.value == 0:
		return "peak 0"
	case ever.value == recent.value:
		return "peak " + say(recent.value) + " at " + clockTime(recent.at, to)
	}
	return "peak of the last hour " + say(recent.value) + ", before " + say(ever.value) + " at " + clockTime(ever.at, to)
}

// clockTime formats t, with its day if that differs from the day of now.
func clockTime(t, now time.Time) string {
	if t.YearDay() != now.YearDay() || t.Year() != now.Year() {
		return t.Format("Jan 2 15:04")
	}
	return t.Format("15:04")
}

// tickSteps are the possible distances between marks.
var tickSteps = [...]time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
	10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour}

// lastTick is the last possible position of a mark. On the narrowest page, 320 pixels
// wide, the axis has 260 pixels. Half a label needs 18 of them, and the label of now 26.
const lastTick = .82

// ticks returns at most six marks at round times, none at the label of now. In the first
// seconds of a process the labels are seconds before now.
func ticks(from, to time.Time) (all []tick) {
	step := tickSteps[len(tickSteps)-1]
	for _, s := range tickSteps {
		if to.Sub(from) <= 5*s {
			step = s
			break
		}
	}
	first, label := from.Truncate(step), func(t time.Time) string { return t.Format("15:04") }
	if step < time.Minute {
		first = to.Add(-to.Sub(from).Truncate(step))
		label = func(t time.Time) string { return fmt.Sprintf("−%d s", to.Sub(t)/time.Second) }
	}
	for t := first; t.Before(to); t = t.Add(step) {
		x := share(t, from, to)
		if x < 0 || x > lastTick {
			continue
		}
		anchor := "middle"
		if x < .08 {
			anchor = "start"
		}
		all = append(all, tick{At: short(600 * x), Percent: short(100 * x), Anchor: anchor, Label: label(t), Rank: rank(len(all))})
	}
	return all
}

// rank returns the class of the i-th mark.
func rank(i int) string {
	switch {
	case i == 0:
		return ""
	case i%2 == 1:
		return "minor"
	}
	return "lesser"
}

func short(x float64) string { return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) }

// count formats n with separated thousands.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func whole(x float64) string { return count(int64(x)) }

// amount formats a rate, with one decimal place if it is less than 10.
func amount(x float64) string {
	if x > 0 && x < 10 {
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return whole(math.Round(x))
}

// bytes formats a size.
func bytes(x float64) string {
	unit := "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if x < 1024 {
			break
		}
		x, unit = x/1024, u
	}
	return amount(x) + " " + unit
}

// duration formats seconds in their two largest units.
func duration(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%d s", seconds)
}

// days formats the remaining time of a certificate.
func days(d float64) string {
	if d >= 2 {
		return whole(math.Floor(d)) + " days"
	}
	return duration(int64(d * 24 * 3600))
}

// CloseRows returns the rows of the table of closes. Closes with 1000 by the relay have
// two causes, and a row for each: the phone's binary did not come back, or the phone or
// its binary ended the connection.
func (v view) CloseRows() (rows []closeRow) {
	expired := v.GraceExpiryCloses
	for _, t := range v.Closes {
		row := closeRow{t, closeMeanings[t.Label]}
		if t.Label == "1000" && t.By == "relay" && expired.SinceStart > 0 {
			row.Meaning = "normal end, requested by the phone or its binary"
			row.LastHour, row.SinceStart = max(t.LastHour-expired.LastHour, 0), max(t.SinceStart-expired.SinceStart, 0)
			rows = append(rows, closeRow{EventCount{t.Label, t.By, expired.LastHour, expired.SinceStart}, "phones of a binary that did not come back"})
			if row.SinceStart == 0 {
				continue
			}
		}
		rows = append(rows, row)
	}
	return rows
}

type closeRow struct {
	EventCount
	Meaning string
}

var closeMeanings = map[string]string{
	"1000": "normal end", "1001": "going away", "1002": "broke WebSocket's rules", "1006": "connection lost",
	"1007": "not JSON in UTF-8", "1008": "broke a limit", "1009": "message too big", "1011": "missed a heartbeat, or too slow",
	"1012": "relay restarts", "1013": "too many claims at once", "4401": "not allowed", "4404": "no binary holds that server-id",
	"4408": "took too long", "4409": "server-id is held by a live binary", "4412": "wrong state", "4421": "wrong relay",
	"4426": "too old", "4429": "server-id has all its phones", "other": "another code, or none",
}

var refusalMeanings = map[string]string{
	"reject_404": "no binary holds that server-id", "reject_409": "server-id is held by a live binary",
	"reject_429": "server-id has all its phones", "reject_rate_limit": "too many attempts from one address",
	"reject_capacity": "relay or address at its limit", "reject_draining": "relay is shutting down",
	"reject_headers": "bad headers", "reject_origin": "origin is not allowed", "reject_handshake": "bad handshake",
	"reject_cluster": "the cluster does not know which node holds it", "reject_banned": "banned by the operator",
	"reject_access": "no access", "reject_access_unknown": "access is not known now", "reject_key": "server-id is bound to another key",
}

var dropMeanings = map[string]string{
	"invalid_frame": "not JSON in UTF-8", "bad_envelope": "invalid envelope", "unknown_phone": "for a phone that is not joined",
	"departed_phone": "for a phone that has just left: normal",
	"phone_backlog":  "phone too slow", "connection_closed": "its connection closed first", "push_refused": "push wake was refused",
}

var lossMeanings = map[string]string{
	"closed": "released at the end of the node", "fence": "lost: not renewed in time", "reclaimed": "reclaimed at another node while in grace",
	"session": "lost: the directory has ended the session",
}
