package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// Colours of relays, and of what must not be.
var nodeColours = [nodes]string{"#1f6feb", "#2e8540", "#d9a50d"}

const overlapColour = "#e00000"

// maxDrawn is how many lanes are drawn; those with an overlap come first.
const maxDrawn = 24

// svg draws who served each id when: a bar for each binary's connection from
// the first to the last moment at which it certainly did, in its relay's
// colour; faults are grey bands, overlaps are red.
func (r *faultTestReport) svg(cc *clusterClients) []byte {
	ids := slices.Clone(cc.ids)
	bad := make(map[string]int)
	for _, o := range r.Overlaps {
		bad[o.ServerID]++
	}
	slices.SortStableFunc(ids, func(a, b *serverID) int { return cmp.Compare(bad[b.id], bad[a.id]) })
	ids = ids[:min(len(ids), maxDrawn)]
	const left, width, top, row = 80, 1240, 120, 14
	height := top + len(ids)*row
	x := func(t int64) float64 {
		t = min(max(t, r.Begun), r.Ended)
		return left + float64(t-r.Begun)/float64(max(1, r.Ended-r.Begun))*width
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", left+width+20, height+40)
	fmt.Fprintln(&b, `<rect width="100%" height="100%" fill="white"/>`)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="16">Who served each server-id: %d handovers, %d overlaps</text>`+"\n", left, r.Handovers, len(r.Overlaps))
	for i, c := range nodeColours {
		fmt.Fprintf(&b, `<rect x="%d" y="36" width="12" height="10" fill="%s"/><text x="%d" y="45">at %s</text>`+"\n", left+i*90, c, left+i*90+16, cc.trio.members[i].name)
	}
	fmt.Fprintf(&b, `<rect x="%d" y="36" width="12" height="10" fill="%s"/><text x="%d" y="45">at two at once</text>`+"\n", left+270, overlapColour, left+286)
	for _, f := range r.Faults {
		end := f.Mended
		if end == 0 {
			end = r.Ended
		}
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#e8e8e8"/>`+"\n", x(f.Begin), top-4, max(1, x(end)-x(f.Begin)), height-top+8)
		fmt.Fprintf(&b, `<text transform="translate(%.1f %d) rotate(-40)">%s %d</text>`+"\n", x(f.Begin)+4, top-8, f.Kind, f.Victim+1)
	}
	for i, l := range ids {
		y := top + i*row
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-6, y+10, l.id)
		var bars [nodes][]byte
		for _, h := range l.holdings {
			if h.proofs > 0 {
				from, to := x(h.minBefore), x(max(h.minBefore, h.maxAfter))
				bars[h.node] = fmt.Appendf(bars[h.node], "M%.1f %dh%.1fv%dH%.1fz", from, y+2, max(.6, to-from), row-4, from)
			}
		}
		for k, d := range bars {
			fmt.Fprintf(&b, `<path fill="%s" d="%s"/>`+"\n", nodeColours[k], d)
		}
		for _, o := range r.Overlaps {
			if o.ServerID == l.id {
				fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x(o.From), y, max(3, x(o.To)-x(o.From)), row, overlapColour)
			}
		}
	}
	seconds := float64(r.Ended-r.Begun) / 1e9
	for k := range 7 {
		at := float64(left) + float64(k)*width/6
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle" fill="#555">%.0f s</text>`+"\n", at, height+22, seconds*float64(k)/6)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
