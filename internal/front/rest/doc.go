// Package rest is the HTTP front: it brings requests to the endpoints whose
// routes they ask for, and their answers back.
package rest
