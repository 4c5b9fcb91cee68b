package oauth

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"postern/upstream"
)

// A Grant is what a provider gave for one account.
type Grant struct {
	AccessToken  upstream.Secret
	Expiry       time.Time // of the access token
	RefreshToken upstream.Secret
	// Former is the refresh token before: a provider may have given this one
	// and then not know it, or know the former one only.
	Former upstream.Secret
	// Ends is when the consent ends, where the provider tells; or zero.
	Ends      time.Time
	Scopes    []string
	Consented time.Time // when a person did, or the refresh token was imported
	Refreshed time.Time // when the access token was given
	// Refused is when the provider last refused to refresh it; zero: it did not.
	Refused time.Time
	// For is what it was given for, as Application.For has it; empty: not known.
	For string
}

// stored is a Grant as it is sealed: a Secret shows asterisks to everybody else.
type stored struct {
	AccessToken  string    `json:"access_token,omitempty"`
	Expiry       time.Time `json:"expiry,omitzero"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	Former       string    `json:"former,omitempty"`
	Ends         time.Time `json:"ends,omitzero"`
	Scopes       []string  `json:"scopes,omitempty"`
	Consented    time.Time `json:"consented,omitzero"`
	Refreshed    time.Time `json:"refreshed,omitzero"`
	Refused      time.Time `json:"refused,omitzero"`
	For          string    `json:"for,omitempty"`
}

// Text is the grant as JSON, to be sealed and kept.
func (g Grant) Text() upstream.Secret {
	text, err := json.Marshal(stored{g.AccessToken.Reveal(), g.Expiry, g.RefreshToken.Reveal(), g.Former.Reveal(),
		g.Ends, g.Scopes, g.Consented, g.Refreshed, g.Refused, g.For})
	if err != nil {
		panic(err) // strings and times of this century
	}
	return upstream.NewSecret(string(text))
}

// ParseGrant reads what Text wrote.
func ParseGrant(text upstream.Secret) (Grant, error) {
	var s stored
	if json.Unmarshal([]byte(text.Reveal()), &s) != nil {
		return Grant{}, errors.New("not a grant") // the JSON error could quote it
	}
	return Grant{upstream.NewSecret(s.AccessToken), s.Expiry, upstream.NewSecret(s.RefreshToken), upstream.NewSecret(s.Former),
		s.Ends, s.Scopes, s.Consented, s.Refreshed, s.Refused, s.For}, nil
}

// leadsTo tells whether later is what the provider gave for this grant's refresh
// token.
func (g Grant) leadsTo(later Grant) bool {
	return g.Consented.Equal(later.Consented) && (g.RefreshToken == later.RefreshToken || g.RefreshToken == later.Former)
}

// undated is how long a token is taken to be good where the provider does not
// say. RFC 6749 section 5.1 has one hour for its example, and so have providers.
const undated = time.Hour

// renewed is the grant after a token was given.
func (g Grant) renewed(t *oauth2.Token) Grant {
	now := time.Now().UTC().Round(0)
	g.AccessToken, g.Refreshed, g.Refused = upstream.NewSecret(t.AccessToken), now, time.Time{}
	if g.Expiry = t.Expiry.UTC().Round(0); t.Expiry.IsZero() {
		g.Expiry = now.Add(undated)
	}
	if fresh := upstream.NewSecret(t.RefreshToken); t.RefreshToken != "" && fresh != g.RefreshToken {
		g.Former, g.RefreshToken = g.RefreshToken, fresh
	}
	// Google says so of applications that it has not verified, Microsoft of
	// those that run in browsers.
	if seconds, ok := t.Extra("refresh_token_expires_in").(float64); ok && seconds > 0 && seconds < 1e9 {
		g.Ends = now.Add(time.Duration(seconds) * time.Second)
	}
	if scope, ok := t.Extra("scope").(string); ok && scope != "" {
		g.Scopes = strings.Fields(printable(scope, 2000))
	}
	return g
}
