package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// Key is an API key, of which the server knows only the digest, or a file that
// holds the key.
type Key struct {
	Grant
	// SHA256 is the key's digest in hex.
	SHA256 string `json:"sha256"`
	// File holds the key itself, alone on its first line.
	File string `json:"file"`
}

// digest is what keys and tokens are looked up by. What the time of a look-up
// may tell is about the digest of what was sent, which leads to no key.
type digest [sha256.Size]byte

func digestOf(token []byte) digest { return sha256.Sum256(token) }

// keyPrefix lets scanners for leaked secrets find keys.
const keyPrefix = "shoal_"

// minKey is the shortest key, in bytes, that somebody may choose: the digest is only
// as good as what it is of cannot be guessed.
const minKey = 16

// NewKey returns a fresh key of 256 bits and its digest as Key.SHA256 has it.
func NewKey() (key, sha string) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, says its documentation
	key = keyPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	sum := digestOf([]byte(key))
	return key, hex.EncodeToString(sum[:])
}

// read returns the key's digest.
func (k Key) read() (d digest, err error) {
	switch {
	case (k.SHA256 == "") == (k.File == ""):
		return d, fmt.Errorf("give either sha256, the key's digest, or file; \"shoal key new\" makes a key")
	case k.SHA256 != "":
		raw, err := hex.DecodeString(k.SHA256)
		if err != nil || len(raw) != len(d) {
			return d, fmt.Errorf("sha256 must be 64 hex digits")
		}
		return digest(raw), nil
	}
	key, err := ReadKey(k.File)
	return digestOf([]byte(key)), err
}

// ReadKey returns the key that a file holds. An error says why it is none, or too short.
func ReadKey(file string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the key: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	return key, CheckKey(file, key)
}

// CheckKey refuses a key of a place that could be guessed, or is not only a key.
func CheckKey(place, key string) error {
	if len(key) < minKey || strings.ContainsAny(key, " \t\r\n") {
		return fmt.Errorf("%s must hold one key of at least %d characters and nothing else", place, minKey)
	}
	return nil
}
