package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"postern/cmd/internal/config"
	"postern/proxy/state"
)

// withoutState is what an operator is told who does without the state.
const withoutState = "state is off: a removal that a crash cuts off is not finished later, removed messages are in no log and cannot be undeleted, " +
	"unique-ids change when the upstream renumbers its messages and clients then download everything again, and every login lists the whole mailbox"

// openState opens what the configuration says that is remembered.
func openState(c config.State, o state.Options) (state.Store, error) {
	if c.Off {
		return state.Off(), nil
	}
	if !o.ReadOnly {
		if err := checkOwner(c.Path); err != nil {
			return nil, err
		}
	}
	o.Dir, o.Retention, o.CacheOctets = c.Path, c.RemovalsKept, c.Cache
	store, err := state.Open(context.Background(), o)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w\nThe directory, and what is in it, has to belong to the user that postern runs as. state.path in the configuration names another one, state: off does without", err)
	}
	return store, err
}

var errStateOff = errors.New("the configuration says state: off, so nothing is remembered")

// openStateFor opens the state for a command that runs beside the server.
func openStateFor(c config.State, o state.Options) (state.Store, error) {
	if c.Off {
		return nil, errStateOff
	}
	store, err := openState(c, o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w\nThere is no state yet: postern serve makes it", err)
	}
	return store, err
}

// openReadable opens the state to look at it: one that keeps nothing if it is
// off, or not there yet.
func openReadable(c config.State) (state.Store, error) {
	store, err := openState(c, state.Options{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return state.Off(), nil
	}
	return store, err
}
