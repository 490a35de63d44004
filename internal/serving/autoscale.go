package serving

import (
	"math"
	"time"
)

// sample is what the autoscaler sees of a backend at one moment.
type sample struct {
	at time.Time
	// replicas is how many there are, working how many of them are ready.
	replicas, working int
	// busy is how many of them, on average since the last sample, were computing;
	// a replica that computes one of its two batches is half a one.
	busy float64
	// wait is how long the oldest query has waited, beyond what a
	// batch_wait_timeout may hold it.
	wait time.Duration
}

const (
	// hotUse is the use from which replicas count as busy: only then can more of
	// them shorten a wait.
	hotUse = 0.8
	// calmUse is the use that fewer replicas may come to. It is below hotUse, so that a
	// backend that got smaller does not at once get larger.
	calmUse = 0.7
	// hotTime is how long it must be hot before there are more replicas.
	hotTime = time.Second
)

// autoscaler decides how many replicas a backend needs: more when queries wait for
// longer than scale_up_queue_time although the replicas are busy, fewer when fewer could have done the
// work of all of the last scale_down_delay. It is a pure function of its samples.
type autoscaler struct {
	hot  time.Time // since when queries wait too long; zero when they do not
	calm time.Time // since when fewer would do; zero when they would not
	peak float64   // the most that was busy since then
}

// want returns how many replicas there should be.
func (a *autoscaler) want(c Config, s sample) int {
	least, most := c.bounds()
	if s.replicas < least || s.replicas > most {
		*a = autoscaler{}
		return max(least, min(most, s.replicas))
	}
	if n := a.more(c, s); n > s.replicas {
		*a = autoscaler{}
		return min(most, n)
	}
	if n := a.fewer(c, s); n < s.replicas {
		*a = autoscaler{}
		return max(least, n)
	}
	return s.replicas
}

// more returns half as many again, at least one, once it has been hot for hotTime.
func (a *autoscaler) more(c Config, s sample) int {
	if s.wait <= time.Duration(c.ScaleUpQueueTime) || s.busy < hotUse*float64(s.working) {
		a.hot = time.Time{}
		return s.replicas
	}
	if a.hot.IsZero() {
		a.hot = s.at
	}
	if s.at.Sub(a.hot) < hotTime {
		return s.replicas
	}
	return s.replicas + (s.replicas+1)/2
}

// fewer returns how many would have done at the busiest moment since it became calm,
// once that was scale_down_delay ago.
func (a *autoscaler) fewer(c Config, s sample) int {
	if s.wait > time.Duration(c.ScaleUpQueueTime) || s.busy > calmUse*float64(s.replicas-1) {
		a.calm, a.peak = time.Time{}, 0
		return s.replicas
	}
	if a.calm.IsZero() {
		a.calm = s.at
	}
	a.peak = max(a.peak, s.busy)
	if s.at.Sub(a.calm) < time.Duration(c.ScaleDownDelay) {
		return s.replicas
	}
	return max(1, int(math.Ceil(a.peak/calmUse)))
}

// bounds are the least and the most replicas that a config allows while the backend
// is not idle.
func (c Config) bounds() (least, most int) {
	return c.NumReplicas, max(c.NumReplicas, c.MaxReplicas)
}

// scales reports whether anything but the config changes the number of replicas.
func (c Config) scales() bool { return c.MaxReplicas > c.NumReplicas || c.IdleTimeout > 0 }
