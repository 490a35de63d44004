// Package server puts one server together: what is deployed, the fronts that
// lead to it, the runtimes that compute it, metrics and logs.
package server
