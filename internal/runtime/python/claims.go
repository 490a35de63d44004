package python

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// claims settle who has a batch that was sent ahead to a busy worker. They are
// a pipe that both sides read: the server writes the batch's id into it, and
// whoever reads the id has the batch. The worker reads it when it is about to
// begin, the server when it wants the batch back, so that neither has to wait
// for the other: a worker that computes could not answer.
type claims struct{ read, write *os.File }

func newClaims() (*claims, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	return &claims{r, w}, nil
}

// inherited is to be called once a process was started with the reading end,
// which made it blocking for both sides.
func (c *claims) inherited() error {
	return onDescriptor(c.read, func(fd int) error { return syscall.SetNonblock(fd, true) })
}

// offer lets the worker claim a batch.
func (c *claims) offer(id uint64) error {
	_, err := c.write.Write(binary.LittleEndian.AppendUint64(nil, id))
	return err
}

// withdraw returns the batches that were offered and that the worker has not
// claimed. It never will.
func (c *claims) withdraw() (ids []uint64) {
	var buf [8]byte
	err := onDescriptor(c.read, func(fd int) error {
		for {
			// Ids are written and read whole: a pipe keeps writes that are this small together.
			n, err := syscall.Read(fd, buf[:])
			switch {
			case errors.Is(err, syscall.EINTR):
			case n != len(buf):
				return err
			default:
				ids = append(ids, binary.LittleEndian.Uint64(buf[:]))
			}
		}
	})
	_ = err // there is nothing left to read, or the pipe is closed and nobody claims anything
	return ids
}

// onDescriptor calls f with a file's descriptor, which stays open meanwhile.
func onDescriptor(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func (c *claims) close() error { return errors.Join(c.read.Close(), c.write.Close()) }
