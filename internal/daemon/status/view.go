package status

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
)

// view is what the template shows.
type view struct {
	Status
	CSS   template.CSS
	Links []Link
	Still bool
}

var functions = template.FuncMap{
	"count": count, "amount": amount, "bytes": bytes, "duration": duration,
	"float": func(n int64) float64 { return float64(n) }, "days": days,
	"closeMeaning": meaning(closeMeanings), "refusalMeaning": meaning(refusalMeanings), "dropMeaning": meaning(dropMeanings),
	"lossMeaning": meaning(lossMeanings),
}

// Charts, each with its own scale.
func (v view) BinariesChart() chart {
	return draw("Binaries", v.History.Binaries, float64(v.Binaries), whole)
}
func (v view) PhonesChart() chart {
	return draw("Phones", v.History.Phones, float64(v.Phones), whole)
}
func (v view) FramesChart() chart {
	return draw("Frames per second", v.History.FramesPerSecond, v.FramesPerSecond.Sum(), amount)
}
func (v view) BytesChart() chart {
	return draw("Bytes per second", v.History.BytesPerSecond, v.BytesPerSecond.Sum(), bytes)
}

// Bars are the limits that there are.
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

// chart is a line over time, in a box of 600 by 100.
type chart struct {
	Title, Desc string
	Line, Area  string // points of a polyline and of the area below it
	Window      string // what the width stands for
	Most        string
}

// windows are what a chart may show: the least that holds all there is, so
// that a young process does not show a speck.
var windows = [...]struct {
	points int
	name   string
}{{60, "last hour"}, {6 * 60, "last 6 hours"}, {24 * 60, "last 24 hours"}}

// draw draws points and, at the right, what is now.
func draw[N uint32 | float32](title string, points []N, now float64, say func(float64) string) chart {
	window := windows[len(windows)-1]
	for _, w := range windows {
		if len(points) < w.points {
			window = w
			break
		}
	}
	values := []float64{}
	for _, p := range points[max(0, len(points)-window.points):] {
		values = append(values, float64(p))
	}
	values = append(values, now)
	if len(values) == 1 {
		values = append(values, now)
	}
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	c := chart{Title: title, Window: window.name, Most: say(most),
		Desc: fmt.Sprintf("%s over the %s: now %s, at most %s.", title, window.name, say(now), say(most))}
	var line strings.Builder
	var x, first float64
	for i, v := range values {
		x = 600 - float64(len(values)-1-i)*600/float64(window.points)
		if i == 0 {
			first = x
		}
		fmt.Fprintf(&line, "%s,%s ", short(x), short(96-92*v/max(most, 1e-9)))
	}
	c.Line = strings.TrimSpace(line.String())
	c.Area = short(first) + ",100 " + c.Line + " 600,100"
	return c
}

func short(x float64) string { return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) }

// count writes n with its thousands apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func whole(x float64) string { return count(int64(x)) }

// amount writes a rate: one digit behind the point if it is small.
func amount(x float64) string {
	if x > 0 && x < 10 {
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return whole(math.Round(x))
}

// bytes writes a size.
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

// duration writes seconds by their two largest units.
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

// days writes what is left of a certificate.
func days(d float64) string {
	if d >= 2 {
		return whole(math.Floor(d)) + " days"
	}
	return duration(int64(d * 24 * 3600))
}

func meaning(of map[string]string) func(string) string {
	return func(label string) string { return of[label] }
}

var closeMeanings = map[string]string{
	"1000": "normal end", "1001": "going away", "1002": "broke WebSocket's rules", "1006": "connection lost",
	"1007": "not JSON in UTF-8", "1008": "broke a limit", "1009": "message too big", "1011": "missed a heartbeat, or too slow",
	"1012": "relay restarts", "1013": "too many claims at once", "4401": "not let in", "4404": "nobody holds that server-id",
	"4408": "took too long", "4409": "server-id is held by a live binary", "4412": "wrong state", "4421": "wrong relay",
	"4426": "too old", "4429": "server-id has all its phones", "other": "another code, or none",
}

var refusalMeanings = map[string]string{
	"reject_404": "nobody holds that server-id", "reject_409": "server-id is held by a live binary",
	"reject_429": "server-id has all its phones", "reject_rate_limit": "too many attempts from one address",
	"reject_capacity": "relay or address at its limit", "reject_draining": "relay is shutting down",
	"reject_headers": "bad headers", "reject_origin": "origin is not allowed", "reject_handshake": "bad handshake",
	"reject_cluster": "the cluster cannot say who holds it",
}

var dropMeanings = map[string]string{
	"invalid_frame": "not JSON in UTF-8", "bad_envelope": "envelope makes no sense", "unknown_phone": "for a phone that is not joined",
	"phone_backlog": "phone too slow", "connection_closed": "its connection closed first", "push_refused": "push wake was not taken on",
}

var lossMeanings = map[string]string{
	"closed": "given up at the end", "fence": "lost: not renewed in time", "reclaimed": "reclaimed at another node while in grace",
	"taken": "lost: another node has them",
}
