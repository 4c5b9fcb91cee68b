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
	server, err := b.newServer("bare", "")
	if err != nil {
		return nil, err
	}
	g := &gateway{name: "bare relay", target: load.Target{TLS: "off"}}
	if err := server.Hold(&g.target.Address); err != nil {
		return nil, err
	}
	if err := start(ctx, server, "+OK", g.target.Address, self, "relay", "--bare", "--listen", g.target.Address, "--to", b.storage.pop3); err != nil {
		return nil, err
	}
	g.pid = server.PID()
	return g, nil
}
