package batch

// SetPatience sets how many batches in a row may leave the oldest query behind.
func (b *Batcher[In, Out]) SetPatience(batches int) { b.waiting.patience = batches }

// Levels is the number of priorities.
const Levels = levels

// LevelOf is the level of a priority.
func LevelOf(priority int) int { return levelOf(priority) }
