// Package telemetry has the server's metrics and logs: what Prometheus scrapes,
// what operators read, and what models print.
package telemetry
