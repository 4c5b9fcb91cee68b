package main

import (
	"errors"
	"testing"
	"time"

	"postern/cmd/internal/config"
	"postern/proxy/notice"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/oauth"
)

// An invitation is given back where what was granted could not be kept: it is
// there still when the person opens the link once more, as they are told to.
func TestInvitationOutlivesAFailure(t *testing.T) {
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	keyless, err := vault.Open(t.Context(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDesk(&config.Config{}, store, keyless, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := state.Invitation{Account: "hall", Token: tokenHash(upstream.NewSecret("link")), Expires: time.Now().Add(time.Hour)}
	if err := store.Invite(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.connected(t.Context(), i, oauth.Grant{}); !errors.Is(err, vault.ErrNoKey) {
			t.Errorf("%v, want ErrNoKey", err)
		}
	}
	if got, err := store.Invitation(t.Context(), i.Token); err != nil || got.Account != "hall" {
		t.Errorf("the invitation: %+v, %v; want it there", got, err)
	}
}

// The link in a notice is the same for as long as the process lives, and good
// after that; the state, of which there are backups, does not tell what it was.
func TestLinkInANotice(t *testing.T) {
	c, err := config.Load(writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
consent: {public_url: "https://pop.example.org"}
vault: {key_file: vault.key}
upstreams:
  own: {protocol: imap, address: "imap.example.org:993", oauth: {client_id: x, scopes: [mail], token_endpoint: "https://x.example/t", authorization_endpoint: "https://x.example/a"}}
`), checkUIDL)
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.LoseConsent(t.Context(), "hall"); err != nil {
		t.Fatal(err)
	}
	link := func(d *desk) string {
		lost, ok, err := noticing{d, "hall", "own"}.Lost(t.Context(), upstream.Account{})
		if err != nil || !ok || lost.Link == "" {
			t.Fatalf("%+v, %t, %v", lost, ok, err)
		}
		return lost.Link
	}
	var links []string
	for range 2 { // processes
		d, err := newDesk(c, store, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, again := link(d), link(d)
		if first != again {
			t.Errorf("%s, then %s", first, again)
		}
		links = append(links, first)
	}
	if links[0] == links[1] || len(links[0]) != len(links[1]) {
		t.Errorf("%q, want two of one length", links)
	}
	for _, l := range links {
		invitation := upstream.NewSecret(l[len("https://pop.example.org/connect/"):])
		if i, err := store.Invitation(t.Context(), tokenHash(invitation)); err != nil || i.Account != "hall" {
			t.Errorf("%s: %+v, %v; want one for hall", l, i, err)
		}
	}
}

// A notice that its client has read is of no account any more once there is
// consent: removing it is no failure.
func TestNoticeReadAfterConsent(t *testing.T) {
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	d, err := newDesk(&config.Config{}, store, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := noticing{d, "hall", "own"}
	if err := n.Told(t.Context(), upstream.Account{}, notice.Lost{}); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	store.Close()
	if err := n.Told(t.Context(), upstream.Account{}, notice.Lost{}); err == nil {
		t.Error("without a state: got no error, want one")
	}
}
