package telemetry

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// Metrics are what one server tells Prometheus.
type Metrics struct {
	registry *prometheus.Registry
	queued   *prometheus.HistogramVec
	computed *prometheus.HistogramVec
	sizes    *prometheus.HistogramVec
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec

	coldStarts *prometheus.HistogramVec
	denied     *prometheus.CounterVec
	refused    *prometheus.CounterVec
	refusals   *prometheus.HistogramVec
}

// New returns Metrics with nothing measured yet.
func New() *Metrics {
	seconds := prometheus.ExponentialBucketsRange(50e-6, 60, 24)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		queued: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "shoal_queue_duration_seconds", Help: "Time that queries waited until a replica began their batch.", Buckets: seconds,
		}, []string{"backend"}),
		computed: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "shoal_compute_duration_seconds", Help: "Time that batches were computed.", Buckets: seconds,
		}, []string{"backend"}),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "shoal_batch_size", Help: "Queries in a batch.", Buckets: prometheus.ExponentialBuckets(1, 2, 12),
		}, []string{"backend"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_http_requests_total", Help: "HTTP requests that were answered; endpoint is empty where none has the route.",
		}, []string{"endpoint", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "shoal_http_request_duration_seconds", Help: "Time from a request's headers to its answer.", Buckets: seconds,
		}, []string{"endpoint"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_requests_denied_total", Help: "Requests that were not let in, by the front that they came to and why.",
		}, []string{"front", "reason"}),
	}
	m.coldStarts = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "shoal_cold_start_seconds", Help: "Time until an idle backend had a replica again.", Buckets: prometheus.ExponentialBucketsRange(0.01, 600, 16),
	}, []string{"backend"})
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shoal_requests_refused_total", Help: "Connections, and requests whose body was still arriving, for which there was no room.",
	}, []string{"front", "reason"})
	m.refusals = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "shoal_http_refusal_duration_seconds", Help: "Time from a request's headers to its refusal, with status 503.",
		Buckets: []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1},
	}, []string{"endpoint"})
	for _, reason := range []string{"connections", "inflight_bytes"} { // an alert needs a 0 to begin from
		m.refused.WithLabelValues("http", reason)
		m.refused.WithLabelValues("admin", reason)
	}
	m.registry.MustRegister(m.queued, m.computed, m.sizes, m.coldStarts, m.requests, m.duration, m.denied, m.refused, m.refusals,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds the counts of everything that is deployed in r. They are read when
// Prometheus asks, so that they cost a query nothing.
func (m *Metrics) Watch(r *serving.Registry) { m.registry.MustRegister(deployed{r}) }

// Handler serves the metrics in Prometheus's format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Denied counts a request that a front, "http" or "admin", did not let in.
func (m *Metrics) Denied(front, reason string) { m.denied.WithLabelValues(front, reason).Inc() }

// Refused counts a connection or a request that a front, "http" or "admin", had no
// room for.
func (m *Metrics) Refused(front, reason string) { m.refused.WithLabelValues(front, reason).Inc() }

// WatchHTTP adds what the HTTP front holds: its connections, and the bytes of bodies
// that are arriving. It may be called again, for the front that is measured then.
func (m *Metrics) WatchHTTP(connections, arriving func() int64) {
	for name, of := range map[string]struct {
		help string
		read func() int64
	}{
		"shoal_http_connections":    {"HTTP connections that are open.", connections},
		"shoal_http_inflight_bytes": {"Memory of HTTP bodies that are still arriving.", arriving},
	} {
		gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: of.help}, func() float64 { return float64(of.read()) })
		m.registry.Unregister(gauge)
		m.registry.MustRegister(gauge)
	}
}

// Observer returns where a backend's queries and batches are measured.
func (m *Metrics) Observer(backend string) serving.Observer {
	backend = label(backend)
	return observer{m.queued.WithLabelValues(backend), m.computed.WithLabelValues(backend), m.sizes.WithLabelValues(backend), m.coldStarts.WithLabelValues(backend)}
}

// label returns a name as Prometheus takes it.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// observer is the histograms of one backend.
type observer struct{ queued, computed, sizes, coldStarts prometheus.Observer }

// Batch implements serving.Observer.
func (o observer) Batch(size int, _ batch.Reason, computed time.Duration) {
	o.sizes.Observe(float64(size))
	o.computed.Observe(computed.Seconds())
}

// ColdStart implements serving.Observer.
func (o observer) ColdStart(took time.Duration) { o.coldStarts.Observe(took.Seconds()) }

// Queued implements serving.Observer.
func (o observer) Queued(d time.Duration) { o.queued.Observe(d.Seconds()) }

// Route measures the requests of one endpoint. It keeps what it looked up, so
// that a request finds its counter by an array index.
type Route struct {
	metrics  *Metrics
	endpoint string
	duration prometheus.Observer
	refusals prometheus.Observer
	codes    [600]atomic.Pointer[prometheus.Counter]
}

// Route returns where an endpoint's requests are measured; the empty name is
// for requests that no endpoint has the route of.
func (m *Metrics) Route(endpoint string) *Route {
	endpoint = label(endpoint)
	return &Route{metrics: m, endpoint: endpoint, duration: m.duration.WithLabelValues(endpoint), refusals: m.refusals.WithLabelValues(endpoint)}
}

// Request counts one answered request.
func (r *Route) Request(code int, took time.Duration) {
	r.duration.Observe(took.Seconds())
	if code == http.StatusServiceUnavailable {
		r.refusals.Observe(took.Seconds())
	}
	if code < 0 || code >= len(r.codes) {
		code = 0
	}
	counter := r.codes[code].Load()
	if counter == nil {
		c := r.metrics.requests.WithLabelValues(r.endpoint, strconv.Itoa(code))
		counter = &c
		r.codes[code].Store(counter)
	}
	(*counter).Inc()
}

// Routes keeps a Route for each endpoint.
type Routes struct {
	metrics *Metrics
	routes  sync.Map // of string to *Route
}

// Routes returns an empty set of Routes.
func (m *Metrics) Routes() *Routes { return &Routes{metrics: m} }

// Get returns the endpoint's Route.
func (r *Routes) Get(endpoint string) *Route {
	if route, ok := r.routes.Load(endpoint); ok {
		return route.(*Route)
	}
	route, _ := r.routes.LoadOrStore(endpoint, r.metrics.Route(endpoint))
	return route.(*Route)
}

// deployed collects the counts that backends keep themselves.
type deployed struct{ registry *serving.Registry }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"backend"}, labels...), nil)
}

var (
	admitted = describe("shoal_queries_admitted_total", "Queries that were taken in.")
	answered = describe("shoal_queries_answered_total", "Queries that the model answered.")
	failed   = describe("shoal_queries_failed_total", "Queries that were computed and failed.")
	refused  = describe("shoal_queries_refused_total", "Queries that were refused, by why.", "reason")
	dropped  = describe("shoal_queries_dropped_total", "Queries that left before they were computed, by why.", "reason")
	batches  = describe("shoal_batches_total", "Batches by why they left when they did.", "reason")
	ahead    = describe("shoal_batches_ahead_total", "Batches that were sent to a replica that was still busy.")
	returned = describe("shoal_batches_returned_total", "Batches that a replica gave back before it began them.")
	isolated = describe("shoal_batches_isolated_total", "Batches that failed as a whole and were computed again in parts.")
	poison   = describe("shoal_queries_poison_total", "Queries that were refused because workers died of them.")
	wasted   = describe("shoal_wasted_compute_seconds_total", "Time that was computed for callers that had left.")
	queuing  = describe("shoal_queued_queries", "Queries that wait.")
	running  = describe("shoal_running_queries", "Queries that are being computed.")
	replicas = describe("shoal_replicas", "Replicas by state.", "state")
	wanted   = describe("shoal_replicas_wanted", "Replicas that there are to be, by the config or the load.")
	restarts = describe("shoal_replica_restarts_total", "Times that a replica had to be restarted, by why.", "reason")
	scaled   = describe("shoal_scale_events_total", "Changes of the number of replicas by the server itself.", "event")
	stuck    = describe("shoal_stuck_replicas", "Replicas that were given up and have not ended.")
	verified = describe("shoal_verified_total", "Queries answered in company that were to be computed again, alone, by how the answers compare.", "result")
)

// Describe implements prometheus.Collector. It describes nothing, which makes
// the collector an unchecked one: which backends there are changes.
func (deployed) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (d deployed) Collect(out chan<- prometheus.Metric) {
	d.rollouts(out)
	for _, b := range d.registry.BackendStatuses() {
		name := label(b.Name)
		count := func(desc *prometheus.Desc, n uint64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), append([]string{name}, labels...)...)
		}
		gauge := func(desc *prometheus.Desc, n int, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), append([]string{name}, labels...)...)
		}
		count(admitted, b.Stats.Admitted)
		count(answered, b.Stats.Answered)
		count(failed, b.Stats.Failed)
		for _, reason := range batch.Refusals() { // those with none too: an alert needs a 0 to begin from
			if reason != batch.Evicted {
				count(refused, b.Stats.Refusals[reason.String()], reason.String())
			}
		}
		count(dropped, b.Stats.Dropped-b.Stats.Evicted-b.Stats.Late, "left")
		count(dropped, b.Stats.Evicted, "evicted")
		count(dropped, b.Stats.Late, "late")
		count(ahead, b.Stats.Ahead)
		count(returned, b.Stats.Returned)
		count(isolated, b.Stats.Isolated)
		count(poison, b.Stats.Poison)
		out <- prometheus.MustNewConstMetric(wasted, prometheus.CounterValue, b.Stats.Wasted, name)
		for reason, n := range b.Stats.Reasons {
			count(batches, n, reason)
		}
		gauge(queuing, b.Queued)
		gauge(running, b.Running)
		states := map[serving.State]int{}
		for _, r := range b.Replicas {
			states[r.State]++
		}
		for _, state := range allStates { // as above
			gauge(replicas, states[state], string(state))
		}
		for _, reason := range serving.RestartReasons() { // likewise
			count(restarts, b.RestartReasons[reason], string(reason))
		}
		gauge(wanted, b.Wanted)
		gauge(stuck, b.Stuck)
		if v := b.Verified; b.Config.VerifyOneIn > 0 || v.Same+v.Different+v.Skipped+v.Failed > 0 {
			count(verified, v.Same, "same")
			count(verified, v.Different, "different")
			count(verified, v.Skipped, "skipped")
			count(verified, v.Failed, "failed")
		}
		for _, event := range serving.ScaleEvents() {
			count(scaled, b.ScaleEvents[event], event)
		}
	}
}

var allStates = []serving.State{serving.StateStarting, serving.StateReady, serving.StateFailed, serving.StateCrashLooping, serving.StateDraining, serving.StateStopped}

var (
	compared = prometheus.NewDesc("shoal_shadow_compared_total", "Answers of shadows by how they compare with the endpoint's.", []string{"endpoint", "backend", "result"}, nil)
	canary   = prometheus.NewDesc("shoal_canary_weight", "Share of the traffic that a canary gets.", []string{"endpoint", "backend", "state"}, nil)
)

// rollouts collects what endpoints count of shadows and canaries.
func (d deployed) rollouts(out chan<- prometheus.Metric) {
	for _, e := range d.registry.EndpointStatuses() {
		name := label(e.Name)
		for shadow, c := range e.Comparisons {
			for result, n := range map[string]uint64{"same": c.Same, "different": c.Different, "dropped": c.Dropped} {
				out <- prometheus.MustNewConstMetric(compared, prometheus.CounterValue, float64(n), name, label(shadow), result)
			}
		}
		if c := e.Canary; c != nil {
			out <- prometheus.MustNewConstMetric(canary, prometheus.GaugeValue, c.Weight, name, label(c.Backend), string(c.State))
		}
	}
}
