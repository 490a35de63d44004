// Package artifact keeps what clients upload for deploys, such as pickled
// models, under the digest of its content: the same bytes are kept once, and a
// name never changes its meaning.
//
// A [Dir] keeps them in a directory of one machine. A cluster's object store
// can stand behind the same [Store].
package artifact
