package proxy

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A Certificate is a certificate chain and its key, in two PEM files. It looks
// at the files in every handshake and reads them again when they have changed,
// so that a renewal needs neither a signal nor a restart.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu    sync.Mutex
	pair  *tls.Certificate
	stamp stamp  // of the files as last read
	fault string // why they could not be used then
}

// LoadCertificate reads a certificate chain and its key from PEM files. Later
// changes that cannot be used, such as a new certificate whose key is not
// written yet, are logged and change nothing. log may be nil.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	stamp, err := c.look()
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s and key %s: %w", certFile, keyFile, err)
	}
	c.pair, c.stamp = &pair, stamp
	return c, nil
}

// Expires returns when the certificate in use ends to be valid.
func (c *Certificate) Expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.pair.Leaf.NotAfter
}

// get implements tls.Config.GetCertificate.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.pair, nil
}

// refresh reads the files again if they are not those that were read last.
func (c *Certificate) refresh() {
	now, err := c.look()
	if err == nil && now.equal(c.stamp) {
		return
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	c.stamp = now
	if err != nil {
		if c.fault != err.Error() { // once, not in every handshake
			c.log.Warn("new certificate not usable, keeping the old one", "certificate", c.certFile, "err", err)
		}
		c.fault = err.Error()
		return
	}
	if c.fault != "" || !pair.Leaf.Equal(c.pair.Leaf) {
		c.log.Info("certificate loaded", "certificate", c.certFile, "expires", pair.Leaf.NotAfter)
	}
	c.pair, c.fault = &pair, ""
}

// A stamp tells one state of the two files from another.
type stamp struct {
	cert, key os.FileInfo
	settled   bool // old enough that no later write can look the same
}

// settling is longer than the granularity of any file system's clock.
const settling = 2 * time.Second

func (c *Certificate) look() (stamp, error) {
	cert, err := os.Stat(c.certFile)
	if err != nil {
		return stamp{}, err
	}
	key, err := os.Stat(c.keyFile)
	if err != nil {
		return stamp{}, err
	}
	return stamp{cert, key, settled(cert) && settled(key)}, nil
}

func settled(f os.FileInfo) bool { return time.Since(f.ModTime()) > settling }

// equal tells whether nothing was written between the two. A file that was
// written a moment before it was read may have been written again within the
// same tick of the clock, so an unsettled stamp equals none.
func (s stamp) equal(last stamp) bool {
	return last.settled && sameFile(s.cert, last.cert) && sameFile(s.key, last.key)
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
