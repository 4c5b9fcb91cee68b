package jmapc

import (
	"context"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail"
	"git.sr.ht/~rockorager/go-jmap/mail/email"
)

// A page is a part of the inbox, oldest first.
type page struct {
	before string // Email state before the query, if that was asked for
	ids    *email.QueryResponse
	emails *emails
}

func (d *maildrop) firstLimit() uint64 { return min(d.session.limits.MaxObjectsInGet, maxPage) }

// page asks for one page, unless that was done at the login.
func (d *maildrop) page(ctx context.Context, position, limit uint64) (*page, error) {
	if early := d.early; early != nil {
		d.early = nil
		if p, err := d.readPage(early, 1); err == nil {
			return p, nil
		}
	}
	got, err := d.read(ctx, func() []jmap.Method { return d.pageMethods(0, position, limit) })
	if err != nil {
		return nil, err
	}
	return d.readPage(got, 0)
}

// pageMethods ask for one page. How messages of the same second are ordered is
// the server's choice, but always the same one (RFC 8620 section 5.5). The state
// is asked for first: what changes later is in Email/changes since then, whether
// or not the page shows it already.
func (d *maildrop) pageMethods(at int, position, limit uint64) []jmap.Method {
	return []jmap.Method{
		&stateOf{Account: d.session.account, IDs: []jmap.ID{}},
		&email.Query{
			Account:        d.session.account,
			Filter:         d.shown(),
			Sort:           oldestFirst,
			Position:       int64(position),
			Limit:          limit,
			CalculateTotal: position == 0,
		},
		&email.Get{
			Account:      d.session.account,
			Properties:   d.properties(),
			ReferenceIDs: resultOf(at+1, "Email/query", "/ids"),
		},
	}
}

func (d *maildrop) readPage(got answers, at int) (p *page, err error) {
	p = new(page)
	if state, err := answer[emails](got, at); err == nil {
		p.before = state.State
	}
	if p.ids, err = answer[email.QueryResponse](got, at+1); err != nil {
		return nil, err
	}
	p.emails, err = answer[emails](got, at+2)
	return p, err
}

// stateOf is Email/get for no message at all, which go-jmap would ask for as
// all of them.
type stateOf struct {
	Account jmap.ID   `json:"accountId"`
	IDs     []jmap.ID `json:"ids"`
}

func (*stateOf) Name() string         { return "Email/get" }
func (*stateOf) Requires() []jmap.URI { return []jmap.URI{mail.URI} }

// resultOf refers to the answer of method n of the same request.
func resultOf(n int, name, path string) *jmap.ResultReference {
	return &jmap.ResultReference{ResultOf: callID(n), Name: name, Path: path}
}

// maxPagesAhead is how many pages of a listing are asked for before they are
// needed. Each may take as much memory as an answer may.
const maxPagesAhead = 3

// A pagesAhead has the next pages of a listing on their way while one is taken
// in. It only guesses: a page that it did not ask for, or that failed, is asked
// for by maildrop.page, which knows what to do about errors.
type pagesAhead struct {
	d     *maildrop
	asked []askedPage // one behind the other
	ctx   context.Context
	drop  context.CancelFunc // nil while nothing was asked for
}

type askedPage struct {
	position, limit uint64
	answer          chan *jmap.Response // one, or closed without
}

// page returns a page, which may be on its way.
func (a *pagesAhead) page(ctx context.Context, position, limit uint64) (*page, error) {
	if len(a.asked) == 0 {
		return a.d.page(ctx, position, limit)
	}
	next := a.asked[0]
	a.asked = a.asked[1:]
	if next.position == position && next.limit == limit {
		if response, ok := <-next.answer; ok {
			if p, err := a.d.readPage(a.d.hear(response), 0); err == nil {
				return p, nil
			}
		}
	}
	a.drop() // what is behind it is in doubt as well
	a.asked, a.drop = nil, nil
	return a.d.page(ctx, position, limit)
}

// ask gets the pages from a position up to total on their way, as many as may
// be. They end with ctx.
func (a *pagesAhead) ask(ctx context.Context, position, limit, total uint64) {
	if a.drop == nil {
		a.ctx, a.drop = context.WithCancel(ctx)
	}
	for most := min(maxPagesAhead, cap(a.d.slots)); len(a.asked) < most; {
		if n := len(a.asked); n > 0 {
			position = a.asked[n-1].position + a.asked[n-1].limit
		}
		if position >= total {
			return
		}
		a.asked = append(a.asked, a.start(position, limit))
	}
}

func (a *pagesAhead) start(position, limit uint64) askedPage {
	p := askedPage{position, limit, make(chan *jmap.Response, 1)}
	d, ctx, session, methods := a.d, a.ctx, a.d.session, a.d.pageMethods(0, position, limit)
	go func() {
		defer close(p.answer)
		defer func() { _ = recover() }() // the session that asks again has it, and ends
		if d.acquire(ctx) != nil {
			return
		}
		defer d.release()
		if response, err := session.send(ctx, methods); err == nil {
			p.answer <- response
		}
	}()
	return p
}
