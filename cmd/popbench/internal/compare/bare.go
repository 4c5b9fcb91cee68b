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
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := start(b.dir, nil, self, "relay", "--bare", "--listen", address, "--to", b.storage.pop3)
	if err != nil {
		return nil, err
	}
	b.atEnd(p.stop)
	g := &gateway{name: "bare relay", target: load.Target{Address: address, TLS: "off"}, pid: p.pid()}
	return g, p.ready(ctx, address, true)
}
