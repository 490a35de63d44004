package serving

import (
	"testing"
	"time"
)

// simulate runs the autoscaler against a load, given as the number of replicas that
// it would keep busy at each second, and returns how many replicas there were at the end of
// each. What does not fit waits.
func simulate(c Config, seconds int, load func(second int) float64) []int {
	var a autoscaler
	n, backlog := c.NumReplicas, 0.
	start := time.Unix(1_000_000, 0)
	var counts []int
	for i := range 2 * seconds {
		offered := load(i/2)/2 + backlog
		done := min(offered, float64(n)/2)
		backlog = offered - done
		wait := time.Duration(backlog / float64(n) * float64(time.Second))
		n = a.want(c, sample{at: start.Add(time.Duration(i) * 500 * time.Millisecond), replicas: n, working: n, busy: 2 * done, wait: wait})
		if i%2 == 1 {
			counts = append(counts, n)
		}
	}
	return counts
}

func changes(counts []int) (n int) {
	for i := range counts[1:] {
		if counts[i+1] != counts[i] {
			n++
		}
	}
	return n
}

func scaled(least, most int) Config {
	c := Config{NumReplicas: least, MaxReplicas: most, ScaleDownDelay: Duration(time.Minute)}
	return c.withDefaults(false)
}

func TestReplicasFollowALoadThatSteps(t *testing.T) {
	counts := simulate(scaled(1, 8), 600, func(second int) float64 {
		if second >= 60 && second < 240 {
			return 4.5
		}
		return 0.4
	})
	if counts[59] != 1 {
		t.Errorf("%d replicas for a load of 0.4", counts[59])
	}
	if counts[90] < 5 || counts[90] > 8 {
		t.Errorf("%d replicas 30 s into a load of 4.5", counts[90])
	}
	if counts[599] != 1 {
		t.Errorf("%d replicas long after the load went", counts[599])
	}
	if counts[239] < 5 {
		t.Errorf("%d replicas at the end of the load", counts[239])
	}
	if n := changes(counts); n > 6 {
		t.Errorf("%d changes: %v", n, counts)
	}
}

func TestReplicasDoNotFlap(t *testing.T) {
	for name, load := range map[string]func(second int) float64{
		"constant, just enough":  func(int) float64 { return 1.9 },
		"constant, a bit much":   func(int) float64 { return 2.05 },
		"up and down each 10 s":  func(s int) float64 { return []float64{0.5, 3.5}[s/10%2] },
		"up and down each 2 s":   func(s int) float64 { return []float64{0.1, 2.9}[s/2%2] },
		"a burst every half min": func(s int) float64 { return []float64{0.2, 6}[(29+s%30)/58] },
	} {
		t.Run(name, func(t *testing.T) {
			counts := simulate(scaled(1, 8), 1200, load)
			if n := changes(counts[300:]); n > 1 { // once it knows the load
				t.Errorf("%d changes: %v", n, counts[300:])
			}
		})
	}
}

func TestReplicasKeepTheirBounds(t *testing.T) {
	for _, n := range simulate(scaled(2, 3), 300, func(s int) float64 { return float64(s % 100) }) {
		if n < 2 || n > 3 {
			t.Fatalf("%d replicas", n)
		}
	}
	var a autoscaler
	at := time.Unix(0, 0)
	if n := a.want(scaled(1, 4), sample{at: at, replicas: 9, working: 9, busy: 9}); n != 4 {
		t.Errorf("%d replicas once the bound is lower", n)
	}
	// Replicas that do not work must not hide that the others are busy.
	for i := range 4 {
		n := a.want(scaled(1, 8), sample{at: at.Add(time.Duration(i) * time.Second), replicas: 3, working: 1, busy: 1, wait: time.Second})
		if i == 3 && n <= 3 {
			t.Errorf("%d replicas though the one that works is busy", n)
		} else if n > 3 {
			return
		}
	}
}

func TestAWaitWhileReplicasAreFreeNeedsNoMore(t *testing.T) {
	var a autoscaler
	for i := range 100 { // such as a batch that is held for others to come
		s := sample{at: time.Unix(int64(i), 0), replicas: 1, working: 1, busy: 0.5, wait: time.Second}
		if n := a.want(scaled(1, 8), s); n != 1 {
			t.Fatalf("%d replicas", n)
		}
	}
}
