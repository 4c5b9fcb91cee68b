package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"postern/cmd/internal/config"
	"postern/proxy/state"
	"postern/proxy/vault"
)

// openVault opens the vault of a state with the keys that the configuration names.
func openVault(c config.Vault, store state.Store) (*vault.Vault, error) {
	return vault.Open(context.Background(), store, keyring(c))
}

// keyring reads the keys, or is nil where the configuration names none.
func keyring(c config.Vault) vault.Source {
	if !c.Set() {
		return nil
	}
	return func() (*vault.Keyring, error) {
		text, from, err := keyText(c)
		if err != nil {
			return nil, err
		}
		ring, err := vault.ParseKeyring(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		return ring, nil
	}
}

// keyText is the text of the keyring, and where it comes from.
func keyText(c config.Vault) (text []byte, from string, err error) {
	switch {
	case c.KeyEnv != "":
		value, ok := os.LookupEnv(c.KeyEnv)
		if !ok {
			return nil, "", fmt.Errorf("the environment variable %s, which vault.key_env names, is not set", c.KeyEnv)
		}
		return []byte(strings.Join(strings.Fields(value), "\n")), "environment variable " + c.KeyEnv, nil
	case c.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, "", fmt.Errorf("there is no CREDENTIALS_DIRECTORY: vault.credential %s needs systemd, and LoadCredentialEncrypted=%[1]s in the unit", c.Credential)
		}
		from = filepath.Join(dir, c.Credential)
	default:
		from = c.KeyFile
	}
	text, err = os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w\nThis file holds the keys that secrets are sealed with. If there never was one, make it: postern vault new-key", err)
	}
	return text, from, err
}
