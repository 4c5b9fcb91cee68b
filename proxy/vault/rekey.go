package vault

import (
	"context"
	"errors"
	"fmt"

	"postern/proxy/state"
)

// rekeyAtOnce is how many secrets are read at a time.
const rekeyAtOnce = 100

// Rekey seals everything under the first key that is not yet, and returns how
// many secrets that were. It may be broken off and begun again, and others may
// use the vault meanwhile. A secret that does not open stays as it is; the error
// tells of the first of them.
func (v *Vault) Rekey(ctx context.Context, progress func(done int)) (done int, err error) {
	ring := v.current()
	if len(ring.keys) == 0 {
		return 0, fmt.Errorf("%w: the configuration names none", ErrNoKey)
	}
	first := ring.keys[0]
	for {
		n, stuck, err := v.rekeyPass(ctx, first, func(n int) { progress(done + n) })
		done += n
		if err != nil || n == 0 {
			return done, errors.Join(err, stuck)
		}
	}
}

// rekeyPass goes through all secrets once. What changes under its hands, the
// next pass meets again.
func (v *Vault) rekeyPass(ctx context.Context, first key, progress func(done int)) (done int, stuck, err error) {
	after := state.SecretName{}
	for {
		page, err := v.store.SealedOtherwise(ctx, first.id, after, rekeyAtOnce)
		if err != nil || len(page) == 0 {
			return done, stuck, err
		}
		for _, was := range page {
			after = was.Current.Name
			is, err := v.resealed(was, first)
			if err != nil {
				if stuck == nil {
					stuck = err
				}
				continue
			}
			switch err := v.store.Reseal(ctx, was, is); {
			case err == nil:
				done++
				progress(done)
			case !errors.Is(err, state.ErrConflict):
				return done, stuck, err
			}
		}
	}
}

// resealed is the same secret under another key.
func (v *Vault) resealed(was state.Secret, k key) (is state.Secret, err error) {
	for from, to := range map[*state.Sealed]*state.Sealed{&was.Current: &is.Current, &was.Former: &is.Former} {
		if from.Version == 0 {
			continue
		}
		text, err := v.open(*from)
		if err != nil {
			return state.Secret{}, err
		}
		*to = k.seal(from.Name, from.Version, text)
	}
	return is, nil
}
