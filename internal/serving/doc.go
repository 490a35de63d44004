// Package serving holds what is deployed and brings queries to it: backends
// with their replicas, endpoints with their routes and traffic.
//
// A front makes a [Call] and gives it to an [Endpoint] of the [Registry]; the
// endpoint picks a [Backend] by its traffic; the backend's batcher hands it, in
// a batch, to a replica that a [Runtime] started. The package knows no protocol
// and no language: those are the fronts' and the runtimes'.
package serving
