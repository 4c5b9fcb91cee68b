package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"

	"postern/proxy/pop3"
	"postern/upstream"
)

// cramMD5 is CRAM-MD5 (RFC 2195): the client sends its name and a digest of our
// challenge, keyed with the password.
func (x *exchange) cramMD5(_ context.Context, response []byte) ([]byte, bool, error) {
	if response != nil {
		return nil, false, pop3.ErrMalformed // there is no initial response
	}
	challenge := []byte("<" + rand.Text() + "@postern>")
	if x.gate.nonce != nil {
		challenge = []byte(x.gate.nonce())
	}
	x.turn = func(ctx context.Context, response []byte) ([]byte, bool, error) {
		return x.digest(ctx, response, func(password string) []byte {
			h := hmac.New(md5.New, []byte(password))
			h.Write(challenge)
			return h.Sum(nil)
		})
	}
	return challenge, false, nil
}

// apop is APOP (RFC 1939 section 7): the client sends its name and a digest of the
// greeting's timestamp and the password.
func (x *exchange) apop(ctx context.Context, response []byte) ([]byte, bool, error) {
	if x.client.Timestamp == "" {
		return x.impossible(ctx, response) // such a digest would be the same every time
	}
	return x.digest(ctx, response, func(password string) []byte {
		sum := md5.Sum([]byte(x.client.Timestamp + password))
		return sum[:]
	})
}

// digest takes a name and a digest in hexadecimal, which of makes of a password.
func (x *exchange) digest(ctx context.Context, response []byte, of func(password string) []byte) ([]byte, bool, error) {
	space := bytes.LastIndexByte(response, ' ')
	if space < 0 {
		return nil, false, pop3.ErrMalformed
	}
	digest, err := hex.DecodeString(string(response[space+1:]))
	if x.user = string(response[:space]); err != nil || len(digest) != md5.Size || !plausibleName(x.user) {
		return nil, false, pop3.ErrMalformed
	}
	err = x.prove(ctx, func() error {
		texts, err := x.gate.accounts.Texts(ctx, x.user, x.client.Remote.Addr())
		if err != nil {
			return err
		}
		proven := false
		for _, t := range texts { // all of them, so that it takes as long for any
			if subtle.ConstantTimeCompare(digest, of(t.Text.Reveal())) == 1 {
				proven, x.password = true, t.Password
			}
		}
		if !proven {
			return fmt.Errorf("no password has this digest: %w", upstream.ErrAuth)
		}
		return nil
	})
	return nil, err == nil, err
}
