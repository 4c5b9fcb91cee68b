package upstream

import "time"

// Hooks are what an adapter tells about its work, for metrics. Each may be nil,
// none may block, and all may be called from several goroutines at once.
type Hooks struct {
	// Connected: a connection was opened (err nil) or could not be, TLS and
	// greeting included, after so long.
	Connected func(took time.Duration, err error)
	// Disconnected: an opened connection was closed by either side.
	Disconnected func()
	// LoggedIn: a login ended, with or without success, after so long from
	// the first attempt to connect.
	LoggedIn func(took time.Duration, err error)
	// RoundTrip: a request was sent whose answer had to be waited for.
	RoundTrip func()
	// Octets: so many octets were received and sent, before TLS and compression.
	Octets func(received, sent int)
	// Session: a session ended that had logged in. From the login on, it took so
	// many requests whose answers had to be waited for, and brought and sent so
	// many octets in all, before TLS and compression.
	Session func(roundTrips int, octets int64)
	// ReadAhead: a message was asked for after the first of a session; hit
	// tells whether it was on its way already.
	ReadAhead func(hit bool)
	// Wasted: so many octets were read ahead and never asked for.
	Wasted func(octets int64)
	// Spilled: so many octets that were read ahead went to disk for a while.
	Spilled func(octets int64)
	// ListingCache: a mailbox was opened for a session; hit tells whether what
	// was kept of its listing made up for listing it anew.
	ListingCache func(hit bool)
	// WarmReuse: an account logged in where connections are kept warm; hit
	// tells whether what an earlier login has left could be used.
	WarmReuse func(hit bool)
	// Mistaken: a message that was to be removed is another one than was listed
	// under its name. The upstream's names do not last, or do not tell messages
	// apart: somebody has to look at it.
	Mistaken func()
}
