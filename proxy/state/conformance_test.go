package state_test

import (
	"testing"

	"postern/proxy/state"
	"postern/proxy/state/statetest"
)

func TestSQLite(t *testing.T) {
	statetest.Test(t, func(t *testing.T) statetest.Fixture {
		dir := t.TempDir()
		return statetest.Fixture{Open: func(t *testing.T) state.Store {
			t.Helper()
			s, err := state.Open(t.Context(), state.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}}
	})
}

func TestOff(t *testing.T) {
	statetest.Test(t, func(t *testing.T) statetest.Fixture {
		s := state.Off()
		return statetest.Fixture{Forgets: true, Open: func(*testing.T) state.Store { return s }}
	})
}
