package vault

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Keyring holds keys. The first seals; each opens what it sealed.
type Keyring struct{ keys []key }

// A key is called by its fingerprint, which is also what tells a wrong key from
// the right one.
type key struct {
	id   string
	aead cipher.AEAD
}

const keyOctets = 32 // AES-256

// NewKey returns a new key as a line of a keyring.
func NewKey() string {
	var k [keyOctets]byte
	rand.Read(k[:])
	return base64.StdEncoding.EncodeToString(k[:])
}

// ParseKeyring reads keys, one a line in base64. Empty lines and those that
// begin with # say nothing. Its errors never show any of the text.
func ParseKeyring(text []byte) (*Keyring, error) {
	ring := &Keyring{}
	for n, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseKey(string(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		if _, twice := ring.key(k.id); !twice {
			ring.keys = append(ring.keys, k)
		}
	}
	if len(ring.keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return ring, nil
}

func parseKey(line string) (key, error) {
	raw, err := base64.StdEncoding.DecodeString(line)
	if err != nil || len(raw) != keyOctets {
		return key{}, fmt.Errorf("not a key: that is %d random octets in base64, as postern vault new-key makes them", keyOctets)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return key{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return key{}, err
	}
	return key{fingerprint(raw), aead}, nil
}

// fingerprint names a key without telling anything of it.
func fingerprint(raw []byte) string {
	h := hmac.New(sha256.New, raw)
	h.Write([]byte("postern vault key fingerprint"))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (r *Keyring) key(id string) (key, bool) {
	for _, k := range r.keys {
		if k.id == id {
			return k, true
		}
	}
	return key{}, false
}

// before returns the keyring with the keys of another one behind its own.
func (r *Keyring) before(other *Keyring) *Keyring {
	both := &Keyring{slices.Clone(r.keys)}
	for _, k := range other.keys {
		if _, there := both.key(k.id); !there {
			both.keys = append(both.keys, k)
		}
	}
	return both
}

// IDs returns the fingerprints of the keys, that of the one that seals first.
func (r *Keyring) IDs() []string {
	ids := make([]string, len(r.keys))
	for i, k := range r.keys {
		ids[i] = k.id
	}
	return ids
}

// String tells nothing but the fingerprints.
func (r *Keyring) String() string { return "keys " + strings.Join(r.IDs(), ", ") }

// GoString is the same: the keys are in no dump of values.
func (r *Keyring) GoString() string { return r.String() }
