// Package vault seals what postern keeps of other people's credentials, and
// opens it again. What is sealed lies in the state, the keys do not: who has the
// one without the other has nothing.
//
// Each generation of a secret is sealed by AES-256-GCM under a random nonce. The
// account, the purpose, the version and the key's fingerprint are associated
// data, so that it opens in the place that it was made for and in no other.
//
// NIST SP 800-38D (GCM; its section 8.3 allows a key 2^32 random nonces).
package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/proxy/state"
	"postern/upstream"
)

var (
	// ErrNoKey: something is sealed, or to be sealed, for which there is no key.
	ErrNoKey = errors.New("no key for the vault")

	// ErrDamaged: what is sealed is not what was sealed for this place.
	ErrDamaged = errors.New("sealed secret does not open")
)

// A Source gives the keyring of today. It is asked again when a key is missing
// and before sealing, so that a new key needs no restart where a file holds it.
type Source func() (*Keyring, error)

// A Vault keeps secrets in a state. It is safe for use by several goroutines,
// and beside other processes with the same state.
type Vault struct {
	store  state.Secrets
	source Source // nil: no keys

	mu     sync.Mutex
	ring   *Keyring
	missed time.Time // when the keyring was read last for want of a key
}

// reloadPause keeps secrets under a lost key from having the keyring read again
// at every login.
const reloadPause = 10 * time.Second

// Open returns the vault in a state. It makes sure that there is a key for all
// that is sealed there, and else is ErrNoKey. A nil source stands for no keys: such
// a vault is good as long as nothing is sealed.
func Open(ctx context.Context, store state.Secrets, source Source) (*Vault, error) {
	v := &Vault{store: store, source: source, ring: &Keyring{}}
	if source != nil {
		ring, err := source()
		if err != nil {
			return nil, fmt.Errorf("vault: %w", err)
		}
		v.ring = ring
	}
	sealed, err := store.SealedKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return v, v.ring.covers(sealed)
}

// covers tells which of the keys that sealed something are missing.
func (r *Keyring) covers(sealed map[string]int) error {
	var missing []string
	for _, id := range slices.Sorted(maps.Keys(sealed)) {
		if _, ok := r.key(id); !ok {
			missing = append(missing, fmt.Sprintf("%s (sealed: %d)", id, sealed[id]))
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case len(r.keys) == 0:
		return fmt.Errorf("%w: the state holds secrets sealed under %s, and the configuration names no vault. "+
			"Name the keyring that has that key, or restore it from a backup", ErrNoKey, strings.Join(missing, ", "))
	}
	return fmt.Errorf("%w: the state holds secrets sealed under %s, but the keyring has only %s. "+
		"Put the missing key back behind the first, from a backup; nothing opens without it", ErrNoKey, strings.Join(missing, ", "), strings.Join(r.IDs(), ", "))
}

// String tells the keys' fingerprints.
func (v *Vault) String() string { return v.current().String() }

// An Opened secret is its two last generations.
type Opened struct {
	Text    upstream.Secret
	Version int64 // 0: there is none
	Former  upstream.Secret
}

// Get opens a secret. One that is not there is the zero Opened.
func (v *Vault) Get(ctx context.Context, name state.SecretName) (Opened, error) {
	found, err := v.store.Secret(ctx, name)
	if err != nil || found.Current.Version == 0 {
		return Opened{}, err
	}
	text, err := v.open(found.Current)
	if err != nil {
		return Opened{}, err
	}
	o := Opened{Text: upstream.NewSecret(string(text)), Version: found.Current.Version}
	if found.Former.Version > 0 {
		if former, err := v.open(found.Former); err == nil { // it is the current one that counts
			o.Former = upstream.NewSecret(string(former))
		}
	}
	return o, nil
}

// Put seals text as the generation of a secret that follows version, which is 0
// if there was none, and returns its version. It is on disk then.
// state.ErrConflict says that another generation came first.
func (v *Vault) Put(ctx context.Context, name state.SecretName, version int64, text upstream.Secret) (int64, error) {
	next := version + 1
	if version == 0 {
		next = first()
	}
	sealed, err := v.seal(name, next, text)
	if err != nil {
		return 0, err
	}
	if err := v.store.SaveSecret(ctx, version, sealed); err != nil {
		return 0, err
	}
	return next, nil
}

// first is the version that a secret begins with: one that no secret of that name
// has had, should there have been one that was removed. Whoever remembers a
// version must not take this secret for that one.
func first() int64 { return time.Now().UnixMicro() }

// Remove removes a secret, if there is one.
func (v *Vault) Remove(ctx context.Context, name state.SecretName) error {
	return v.store.RemoveSecret(ctx, name)
}

// maxSecret is more than any credential is long.
const maxSecret = 1 << 20

// Seal seals the first generation of a secret, for the state to keep.
func (v *Vault) Seal(name state.SecretName, text upstream.Secret) (state.Sealed, error) {
	return v.seal(name, first(), text)
}

func (v *Vault) seal(name state.SecretName, version int64, text upstream.Secret) (state.Sealed, error) {
	if len(text.Reveal()) > maxSecret {
		return state.Sealed{}, fmt.Errorf("vault: a secret of more than %d octets", maxSecret)
	}
	v.reload()
	ring := v.current()
	if len(ring.keys) == 0 {
		return state.Sealed{}, fmt.Errorf("%w: the configuration names none", ErrNoKey)
	}
	return ring.keys[0].seal(name, version, []byte(text.Reveal())), nil
}

func (k key) seal(name state.SecretName, version int64, text []byte) state.Sealed {
	return state.Sealed{Name: name, Version: version, Key: k.id,
		Data: k.aead.Seal(nil, nil, text, associated(name, version, k.id))}
}

// associated is what a sealed secret belongs to, in octets that are different for
// different places.
func associated(name state.SecretName, version int64, id string) []byte {
	var b []byte
	for _, part := range []string{"postern vault 1", name.Account, name.Purpose, id} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return binary.BigEndian.AppendUint64(b, uint64(version))
}

func (v *Vault) open(s state.Sealed) ([]byte, error) {
	k, err := v.keyFor(s.Key)
	if err != nil {
		return nil, err
	}
	text, err := k.aead.Open(nil, nil, s.Data, associated(s.Name, s.Version, s.Key))
	if err != nil {
		return nil, fmt.Errorf("%w: %q of %q, version %d", ErrDamaged, s.Name.Purpose, s.Name.Account, s.Version)
	}
	return text, nil
}

// keyFor finds a key, which may have been added to the keyring lately.
func (v *Vault) keyFor(id string) (key, error) {
	if k, ok := v.current().key(id); ok {
		return k, nil
	}
	if v.mayReload() {
		v.reload()
	}
	if k, ok := v.current().key(id); ok {
		return k, nil
	}
	return key{}, fmt.Errorf("%w: sealed under %s, which is not on the keyring", ErrNoKey, id)
}

func (v *Vault) current() *Keyring {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ring
}

// mayReload tells whether it is time to look for a missing key again.
func (v *Vault) mayReload() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.missed) < reloadPause {
		return false
	}
	v.missed = time.Now()
	return true
}

// reload takes up the keyring of now. One that cannot be read changes nothing.
// Keys that are not in it any more go on opening in this process: it may be half
// written, or somebody's mistake, which Open tells of at the next start.
func (v *Vault) reload() {
	if v.source == nil {
		return
	}
	ring, err := v.source()
	if err != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ring = ring.before(v.ring)
}
