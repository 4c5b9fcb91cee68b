package compare

import (
	"context"
	"fmt"

	"postern/upstream/upstreamtest/private"
)

// newServer makes what a program needs to run privately: as the account, where
// this program is root's and the account is not empty.
func (b *bench) newServer(name, account string) (*private.Server, error) {
	s, err := private.New(b.dir, name, account)
	if err != nil {
		return nil, err
	}
	b.atEnd(s.End)
	return s, nil
}

// start starts a program and waits until it accepts connections and, where it
// is one that does, greets.
func start(ctx context.Context, s *private.Server, greeted string, address string, program string, args ...string) error {
	if err := s.Start(s.Command(program, args...)); err != nil {
		return err
	}
	if err := s.Await(ctx, func() error { return private.Greets(address, "", greeted) }); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}
