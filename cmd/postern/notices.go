package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"time"

	"postern/proxy/consent"
	"postern/proxy/ledger"
	"postern/proxy/notice"
	"postern/proxy/state"
	"postern/upstream"
)

// noticed puts notices in the place of mailboxes that only their owners'
// consent would open again.
func (d *desk) noticed(account, upstreamName string, opener upstream.Opener) upstream.Opener {
	if opener == nil || !d.config.Consent.Notice || d.config.State.Off || !d.asks(upstreamName) {
		return opener
	}
	return notice.New(opener, noticing{d, account, upstreamName})
}

// noticing is one account's part of the desk (notice.Desk).
type noticing struct {
	*desk
	account, upstream string
}

func (n noticing) Lost(ctx context.Context, _ upstream.Account) (notice.Lost, bool, error) {
	c, err := n.store.Consent(ctx, n.account)
	if err != nil || c.Lost.IsZero() || !c.Noticed.IsZero() {
		return notice.Lost{}, false, err
	}
	lost := notice.Lost{Account: n.account, Provider: title(n.config.Upstream(n.upstream)), Since: c.Lost}
	if n.public == nil {
		return lost, true, nil
	}
	invitation := n.invitation(c.Lost)
	lost.Link = consent.Link(n.public, invitation)
	_, err = n.invite(ctx, n.account, invitation)
	return lost, err == nil, err
}

// invitation is the one that goes into the notice of this loss: the same each
// time that a client looks at it, until it has been told. After a restart there
// is another one beside it: nothing in the state is to tell what the link was.
func (n noticing) invitation(lost time.Time) upstream.Secret {
	h := hmac.New(sha256.New, n.secret[:])
	h.Write([]byte(n.account + "\x00" + strconv.FormatInt(lost.UnixNano(), 10)))
	return upstream.NewSecret(base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18]))
}

func (n noticing) Told(ctx context.Context, _ upstream.Account, _ notice.Lost) error {
	err := n.store.NoticeDelivered(ctx, n.account)
	if errors.Is(err, state.ErrNotFound) {
		return nil // consent came back while the client was reading
	}
	return err
}

func (n noticing) Remembered(ctx context.Context, a upstream.Account) (upstream.Listing, error) {
	return ledger.Remembered(ctx, n.store, ledgerAccount(n.config, n.upstream, a.User))
}
