package compare

import (
	"context"
	"os"

	"postern/cmd/popbench/internal/load"
)

// bareRelay starts this program as a relay that only copies, in front of
// Dovecot's own POP3 server.
func (b *bench) bareRelay(ctx context.Context) (*gateway, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &gateway{name: "bare relay", target: load.Target{TLS: "off"}}
	return g, withRetry(func() error {
		if err := freeAddresses(&g.target.Address); err != nil {
			return err
		}
		p, err := start(b.dir, nil, self, "relay", "--bare", "--listen", g.target.Address, "--to", b.storage.pop3)
		if err != nil {
			return err
		}
		b.atEnd(p.stop)
		g.pid = p.pid()
		return p.ready(ctx, g.target.Address, true)
	})
}
