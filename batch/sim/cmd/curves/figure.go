package main

import (
	"bytes"
	"fmt"
	"math"

	"github.com/shoalserve/shoal/batch/sim"
)

// figure is some panels in a row, over one legend.
type figure struct {
	title  string
	panels []panel
}

// panel is one plot: a line for each policy, over the places at.
type panel struct {
	title, x string
	y        func(sim.Result) float64
	limit    float64 // beyond which lines are cut off; 0 for none
	at       []float64
	lines    []line
}

type line struct {
	name string
	y    []float64
}

func (p *panel) add(name string, results []sim.Result) {
	l := line{name: name}
	for _, r := range results {
		l.y = append(l.y, p.y(r))
	}
	p.lines = append(p.lines, l)
}

const (
	panelWidth, panelHeight = 400, 300
	left, right             = 52, 16
	top, bottom             = 78, 56
)

// The lines' colours and dashes, in order; the last, the batcher's own policy, is whole.
var (
	colours = []string{"#a0aec0", "#d69e2e", "#805ad5", "#38a169", "#2b6cb0"}
	dashes  = []string{"none", "7 5", "2 4", "11 3 2 3"}
)

func (f figure) svg() []byte {
	var b bytes.Buffer
	width, height := panelWidth*len(f.panels), panelHeight+top
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `  <rect width="%d" height="%d" rx="8" fill="#f7fafc"/>`+"\n", width, height)
	fmt.Fprintf(&b, `  <text x="20" y="28" font-size="13" font-weight="600" fill="#1a365d">%s</text>`+"\n", f.title)
	x := 20
	for i, l := range f.panels[0].lines {
		fmt.Fprintf(&b, `  <path d="M%d 48h26" %s/><text x="%d" y="52" fill="#4a5568">%s</text>`+"\n",
			x, stroke(i, f.panels[0]), x+32, l.name)
		x += 56 + 7*len(l.name)
	}
	for i, p := range f.panels {
		fmt.Fprintf(&b, `  <g transform="translate(%d %d)">`+"\n", i*panelWidth, top)
		p.draw(&b)
		b.WriteString("  </g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// stroke is how a line is drawn. Lines may lie on each other, so they are broken
// in different ways.
func stroke(i int, p panel) string {
	if i == len(p.lines)-1 {
		return fmt.Sprintf(`stroke=%q stroke-width="2"`, colours[len(colours)-1])
	}
	return fmt.Sprintf(`stroke=%q stroke-width="%d" stroke-dasharray=%q`, colours[i], 4-i/2, dashes[i])
}

func (p panel) draw(b *bytes.Buffer) {
	highest, furthest := 0.0, p.at[len(p.at)-1]
	for _, l := range p.lines {
		for _, y := range l.y {
			highest = max(highest, y)
		}
	}
	if p.limit > 0 {
		highest = min(highest, p.limit)
		for _, l := range p.lines {
			for j := range l.y {
				l.y[j] = min(l.y[j], p.limit)
			}
		}
	}
	step := round(highest / 5)
	highest = math.Ceil(highest/step) * step
	w, h := float64(panelWidth-left-right), float64(panelHeight-bottom)
	x := func(v float64) float64 { return left + v/furthest*w }
	y := func(v float64) float64 { return h - v/highest*(h-22) }

	fmt.Fprintf(b, `    <text x="%d" y="10" fill="#1a365d">%s</text>`+"\n", left, p.title)
	for v := 0.0; v <= highest+step/2; v += step {
		fmt.Fprintf(b, `    <path d="M%d %.1fh%.0f" stroke="#e2e8f0"/><text x="%d" y="%.1f" text-anchor="end" fill="#4a5568" font-size="11">%g</text>`+"\n",
			left, y(v), w, left-6, y(v)+4, v)
	}
	step = round(furthest / 8)
	for v := 0.0; v <= furthest; v += step {
		fmt.Fprintf(b, `    <text x="%.1f" y="%.1f" text-anchor="middle" fill="#4a5568" font-size="11">%g</text>`+"\n", x(v), h+16, v)
	}
	fmt.Fprintf(b, `    <text x="%.1f" y="%.1f" text-anchor="middle" fill="#4a5568">%s</text>`+"\n", left+w/2, h+36, p.x)
	for i, l := range p.lines {
		fmt.Fprintf(b, `    <path fill="none" %s stroke-linejoin="round" d="`, stroke(i, p))
		for j, v := range l.y {
			fmt.Fprintf(b, "%c%.1f %.1f", "ML"[min(j, 1)], x(p.at[j]), y(v))
		}
		b.WriteString("\"/>\n")
	}
}

// round gives the next of 1, 2, 5, 10, 20, 50 and so on.
func round(x float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(x)))
	for _, n := range []float64{1, 2, 5} {
		if n*unit >= x {
			return n * unit
		}
	}
	return 10 * unit
}
