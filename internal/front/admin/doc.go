// Package admin is the front through which a server is run: the HTTP and JSON
// calls of "Admin API" in docs/protocol.md, and the link, over which the
// handles of other processes send their queries.
//
// A [Front] serves a Unix socket that only its owner can open, or TCP with a
// bearer token. A [Client] is the other side, for the command line.
//
// A link is one connection with two goroutines: one reads frames and submits
// queries, one writes answers. An answer is appended to the link's outbox by
// whatever goroutine finished its batch, and the writer takes all that has
// gathered at once, so that answers share system calls when there are many and
// go out alone when there are few.
package admin
