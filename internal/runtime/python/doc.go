// Package python runs Python functions and classes in worker processes.
//
// A worker is a child process with one connected Unix socket, over which whole
// batches travel in single frames (docs/protocol.md). The server writes a batch
// from whichever goroutine made it ready, and one goroutine for each worker reads
// the answers.
//
// Models that take arrays get a batch of rows as one block for each input. Large
// frames lie in memory that server and worker share ([arena]).
package python
