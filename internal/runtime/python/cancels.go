package python

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// cancels tell a worker which batches nobody waits for any more. They are a pipe
// of batch ids that the worker reads when its model asks: a frame would lie behind
// those that were sent before, which are not read while the model computes.
type cancels struct{ read, write *os.File }

func newCancels() (*cancels, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	return &cancels{r, w}, nil
}

// inherited is to be called once a process was started with the reading end,
// which is the worker's alone from now on.
func (c *cancels) inherited() error {
	return errors.Join(onDescriptor(c.read, func(fd int) error { return syscall.SetNonblock(fd, true) }), c.read.Close())
}

// tell tells the worker of a batch. A model that never asks leaves the pipe
// full; then it is not told.
func (c *cancels) tell(id uint64) {
	_ = onDescriptor(c.write, func(fd int) error {
		_, err := syscall.Write(fd, binary.LittleEndian.AppendUint64(nil, id))
		return err
	})
}

func (c *cancels) close() error { return errors.Join(ignoreClosed(c.read.Close()), c.write.Close()) }

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
