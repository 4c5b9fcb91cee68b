package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"postern/proxy/vault"
)

func (p *program) vaultCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "vault",
		Short: "Look after the keys that secrets are sealed with",
		Long: `Passwords and tokens in the state are sealed with a key that is kept elsewhere:
in a file, an environment variable or a systemd credential, as vault in the
configuration says. Without it, nothing of them can be read again: keep a copy of
it where the backups of the state are not.`,
	}
	c.AddCommand(p.newKeyCommand())
	return c
}

func (p *program) newKeyCommand() *cobra.Command {
	var path string
	var print bool
	c := &cobra.Command{
		Use:   "new-key",
		Short: "Make a key",
		Long: `Make a key, and put it first into the file that vault.key_file in the configuration
names; keys that are there stay behind it. From then on it seals. Where the
configuration names no file, or with --print, the key is printed instead.

To change keys: make a new one this way, run postern rekey, and when that has
found nothing left to do, take the old one away.`,
		Example: `  postern vault new-key
  postern vault new-key --print | systemd-creds encrypt --name=vault-key - vault-key.cred`,
		Args: noArgs,
		RunE: p.begin(func() error { return p.newKey(path, print) }),
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&print, "print", false, "print the key, and write it nowhere")
	return c
}

func (p *program) newKey(path string, print bool) error {
	if print {
		fmt.Fprintln(p.out, vault.NewKey())
		return nil
	}
	c, err := load(path)
	if err != nil {
		return err
	}
	file := c.Vault.KeyFile
	if file == "" {
		fmt.Fprintln(p.out, vault.NewKey())
		fmt.Fprintln(p.err, "Put this line first where the configuration's vault has its keys.")
		return nil
	}
	had, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(had) > 0 {
		if _, err := vault.ParseKeyring(had); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	key := vault.NewKey()
	if err := replaceFile(file, []byte(key+"\n"+string(had))); err != nil {
		return err
	}
	ring, err := vault.ParseKeyring([]byte(key))
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "The key %s is in %s, and seals from now on.\n", ring.IDs()[0], file)
	if len(had) > 0 {
		fmt.Fprintln(p.out, "Seal with it what the former key has sealed: postern rekey")
	} else {
		fmt.Fprintln(p.out, "Keep a copy of it apart from the backups of the state: without it, nothing that is sealed can be read.")
	}
	return nil
}

// replaceFile puts content in the place of a file, whole or not at all. Who
// could read the file still can; a new one is its owner's alone, or root's and
// the directory's group's.
func replaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".postern-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if info, statErr := os.Stat(path); statErr == nil {
		err = errors.Join(err, f.Chmod(info.Mode().Perm()), keepOwner(f, info))
	} else if dir, statErr := os.Stat(filepath.Dir(path)); statErr == nil {
		err = errors.Join(err, shareWithGroup(f, dir))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
