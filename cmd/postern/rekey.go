package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/state"
	"postern/proxy/vault"
)

func (p *program) rekeyCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "rekey",
		Short: "Seal all secrets under the first key",
		Long: `Seal again, under the first key of the vault, every secret in the state that is
under another. It may be broken off and run again, and run while the gateway does.

A gateway takes up a key that was added to vault.key_file by itself. Where the
keys come from the environment or from systemd, restart it with the new key and
the old one before this.`,
		Example: `  postern vault new-key && postern rekey`,
		Args:    noArgs,
		RunE:    p.begin(func() error { return p.rekey(path) }),
	}
	configFlag(c, &path)
	return c
}

func (p *program) rekey(path string) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	if !c.Vault.Set() {
		return errors.New("the configuration names no vault, so nothing is sealed")
	}
	store, err := openStateFor(c.State, state.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	v, err := openVault(c.Vault, store)
	if err != nil {
		return err
	}
	report, end := p.counting("secrets sealed anew")
	all, err := p.toSeal(store, c.Vault)
	if err != nil {
		return err
	}
	done, err := v.Rekey(p.drain, func(done int) { report(done, max(done, all)) })
	end()
	fmt.Fprintf(p.out, "%s sealed anew.\n", plural(done, "secret"))
	if err != nil {
		return err
	}
	return p.tellSpare(store, c.Vault)
}

// toSeal counts what is sealed under other keys than the first.
func (p *program) toSeal(store state.Store, c config.Vault) (n int, err error) {
	ring, sealed, err := p.sealedKeys(store, c)
	if err != nil {
		return 0, err
	}
	for id, count := range sealed {
		if id != ring.IDs()[0] {
			n += count
		}
	}
	return n, nil
}

// tellSpare names the keys that are of no use any more.
func (p *program) tellSpare(store state.Store, c config.Vault) error {
	ring, sealed, err := p.sealedKeys(store, c)
	if err != nil {
		return err
	}
	var spare []string
	for _, id := range ring.IDs()[1:] {
		if sealed[id] == 0 {
			spare = append(spare, id)
		}
	}
	if len(spare) > 0 {
		fmt.Fprintf(p.out, "Nothing is sealed any more under %s, which can be taken away once no old backup needs it.\n", strings.Join(spare, ", "))
	}
	return nil
}

// sealedKeys reads the keys, and how many secrets are sealed under each.
func (p *program) sealedKeys(store state.Store, c config.Vault) (*vault.Keyring, map[string]int, error) {
	ring, err := keyring(c)()
	if err != nil {
		return nil, nil, err
	}
	sealed, err := store.SealedKeys(p.drain)
	return ring, sealed, err
}
