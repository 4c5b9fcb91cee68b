package oauth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"

	"postern/upstream"
)

// A Device asks a person for consent who has a browser somewhere else (RFC
// 8628).
type Device struct {
	app    *Application
	config *oauth2.Config
	answer *oauth2.DeviceAuthResponse

	URL      string // for the person to open
	Complete string // the same with the code in it; or empty
	Code     string // to be typed there
	Expires  time.Time
}

const (
	deviceTime  = 15 * time.Minute // that a code is good, where the provider does not say or says more
	leastPause  = 5                // seconds between two questions, as section 3.2 has it
	mostPause   = 60
	maxUserCode = 64 // octets
)

// BeginDevice gets a code for the person to type.
func (a *Application) BeginDevice(ctx context.Context) (*Device, error) {
	e, err := a.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	if a.Flow != ByConsent || e.DeviceURL == "" {
		return nil, fmt.Errorf("%w: %s takes no device codes", upstream.ErrRejected, a.Name)
	}
	options, err := a.options(e)
	if err != nil {
		return nil, err
	}
	if a.ClientSecret.Reveal() != "" { // the library does not send it here
		options = append(options, oauth2.SetAuthURLParam("client_secret", a.ClientSecret.Reveal()))
	}
	asking, end, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	d := &Device{app: a, config: a.config(e, "")}
	if d.answer, err = d.config.DeviceAuth(asking, options...); err != nil {
		return nil, a.refused(err)
	}
	return d, d.bound()
}

// bound keeps the provider's answer to what a person and a clock can bear.
func (d *Device) bound() error {
	a := d.answer
	if a.DeviceCode == "" || a.UserCode == "" || a.VerificationURI == "" {
		return fmt.Errorf("the provider's answer holds no device code: %w", upstream.ErrUnavailable)
	}
	a.Interval = min(max(a.Interval, leastPause), mostPause)
	if latest := time.Now().Add(deviceTime); a.Expiry.IsZero() || a.Expiry.After(latest) {
		a.Expiry = latest
	}
	d.URL, d.Complete, d.Code = printable(a.VerificationURI, 2000), printable(a.VerificationURIComplete, 2000), printable(a.UserCode, maxUserCode)
	d.Expires = a.Expiry
	return nil
}

// Wait asks until the person has answered, or the code has expired, and returns
// what was granted. A question that gets lost is asked again (RFC 8628 section
// 3.5).
func (d *Device) Wait(ctx context.Context) (Grant, error) {
	for {
		g, err := d.wait(ctx)
		if !errors.Is(err, upstream.ErrUnavailable) || ctx.Err() != nil {
			return g, err
		}
		if !time.Now().Before(d.Expires) {
			return g, fmt.Errorf("nobody has typed the code in time: %w", upstream.ErrUnavailable)
		}
	}
}

func (d *Device) wait(ctx context.Context) (Grant, error) {
	options, err := d.app.options(Endpoints{TokenURL: d.config.Endpoint.TokenURL})
	if err != nil {
		return Grant{}, err
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, d.app.client())
	token, err := checked(d.config.DeviceAccessToken(ctx, d.answer, options...)) // pauses first
	if err == nil {
		return d.app.granted(token)
	}
	err = d.app.refused(err, upstream.NewSecret(d.answer.DeviceCode))
	if refusal, ok := err.(*Refusal); ok && (refusal.Code == "access_denied" || refusal.Code == "authorization_declined") {
		refusal.kind = ErrDenied
	}
	return Grant{}, err
}
