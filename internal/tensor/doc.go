// Package tensor turns queries into arrays and arrays into answers.
//
// A model that takes arrays has a [Signature]. It decodes each query, in JSON, in
// NumPy's .npy format or from a query string, into a [Row]: one item for each
// input. A [Collation] lays the rows of a batch out as one little-endian block
// for each input, of shape [batch, …]. What the model answers comes back as such
// blocks, [Answers], of which each query's [Item] is written as JSON or .npy.
//
// The package knows no transport: whoever moves the blocks supplies the memory.
package tensor
