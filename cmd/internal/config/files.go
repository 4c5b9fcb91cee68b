package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// checkFiles looks whether the files that the configuration names are there,
// and are what they should be.
func (c *Config) checkFiles(d *decoder) {
	c.checkConsentFiles(d)
	warnOfReaders(d, "vault.key_file", c.Vault.KeyFile)
	for i, l := range c.Listeners {
		if l.Certificate != "" && l.Key != "" {
			l.checkFiles(d, item("listeners", i))
		}
		l.checkClientCA(d, item("listeners", i))
	}
	for _, u := range c.Upstreams {
		u.OAuth.checkFiles(d, "upstreams."+printable(u.Name)+".oauth")
		if u.CAFile == "" {
			continue
		}
		at := "upstreams." + printable(u.Name) + ".ca_file"
		if pem, ok := readNamed(d, at, u.CAFile); ok && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			d.fault(at, "no certificate in %s: it must hold PEM", u.CAFile)
		}
	}
	c.checkAccountFiles(d)
}

func (l Listener) checkFiles(d *decoder, path string) {
	certificate, okCertificate := readNamed(d, path+".certificate", l.Certificate)
	key, okKey := readNamed(d, path+".key", l.Key)
	if !okCertificate || !okKey {
		return
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		d.fault(path+".certificate", "does not go with the key: %v", err)
		return
	}
	if end := pair.Leaf.NotAfter; end.Before(time.Now()) {
		d.warn(path+".certificate", "expired on %s: clients will refuse it", end.UTC().Format(time.DateOnly))
	}
	warnOfReaders(d, path+".key", l.Key)
}

// warnOfReaders warns of a secret that is none.
func warnOfReaders(d *decoder, path, name string) {
	if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o004 != 0 {
		d.warn(path, "everybody on this machine may read %s (mode %#o): 0600 is enough", name, info.Mode().Perm())
	}
}

// warnOfWriters warns of a directory in which everybody may put files in the
// place of others.
func warnOfWriters(d *decoder, path, name string) {
	if info, err := os.Stat(name); err == nil && info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		d.warn(path, "everybody on this machine may write to %s (mode %#o): 0700 is enough", name, info.Mode().Perm())
	}
}

// readNamed reads the file that the value at path names.
func readNamed(d *decoder, path, name string) ([]byte, bool) {
	content, err := readFile(name)
	if err != nil {
		d.fault(path, "cannot read %s: %v", name, cause(err))
	}
	return content, err == nil
}

// tryState looks whether the directory of the state can be made, or written to.
func (c *Config) tryState(d *decoder) {
	if c.State.Off || c.State.Path == "" || d.blamed("state") || d.blamed("state.path") {
		return
	}
	existing, err := nearest(c.State.Path)
	if err == nil {
		err = tryWriting(existing)
	}
	switch {
	case err == nil:
		warnOfWriters(d, "state.path", existing)
	case errors.Is(err, syscall.ENOSPC):
		d.fault("state.path", "cannot write to %s: %v", existing, cause(err))
	case existing == c.State.Path:
		d.fault("state.path", "cannot write to %s: %v; it has to belong to the user that postern runs as", c.State.Path, cause(err))
	default:
		d.fault("state.path", "cannot make %s: %s: %v; make it, and give it to the user that postern runs as", c.State.Path, existing, cause(err))
	}
}

// nearest returns the directory itself if it is there, or else the one of those
// above it that is there.
func nearest(dir string) (string, error) {
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return dir, syscall.ENOTDIR
		case err == nil || !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir:
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

// tryWriting writes a file and takes it away: permissions alone do not tell of a
// file system that is read-only, nor a file without content of one that is full.
func tryWriting(dir string) error {
	f, err := os.CreateTemp(dir, ".postern-check-")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// cause is an error without the name of the file that it is about.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// maxFileSize is more than any configuration needs, and less than hurts.
const maxFileSize = 4 << 20

// readFile reads a whole file, if it is of a sane size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(text) > maxFileSize {
		err = fmt.Errorf("%s: larger than %d octets", path, maxFileSize)
	}
	return text, err
}
