package jmapc

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"postern/upstream"
)

const (
	journalTime = 10 * time.Second   // to note the outcome when the session's time is up
	resumeTime  = 10 * time.Second   // that a login spends on what an earlier session left
	resumeAge   = 7 * 24 * time.Hour // of an intent that is still looked after
)

// begin writes down what the next Email/set is to remove, before it is sent. Its
// names are the removals as they will be recorded if it succeeds.
func (d *maildrop) begin(ctx context.Context, removals []upstream.Removal) (id int64, err error) {
	if d.u.o.Journal == nil || len(removals) == 0 {
		return 0, nil
	}
	names, err := json.Marshal(removals)
	if err == nil {
		id, err = d.u.o.Journal.Begin(ctx, upstream.Intent{
			Account: d.account.User,
			Session: d.account.Session,
			Policy:  d.u.o.Policy.Delete.String(),
			Mailbox: string(d.inbox),
			Names:   string(names),
		})
	}
	if err != nil {
		return 0, fmt.Errorf("removal not begun: %w: %w", upstream.ErrUnavailable, err)
	}
	return id, nil
}

// end logs what was removed and notes it, also if ctx has ended: it is so. An
// intent that is never ended waits for the next login.
func (d *maildrop) end(ctx context.Context, intent int64, removed []upstream.Removal) {
	if len(removed) > 0 {
		d.u.o.Log.Info("messages removed", d.about(d.account.Session, removed)...)
	}
	if intent == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTime)
	defer cancel()
	if err := d.u.o.Journal.End(ctx, intent, removed); err != nil {
		d.u.o.Log.Warn("removal not noted", "account", d.account.User, "err", err)
	}
}

func (d *maildrop) about(session string, removed []upstream.Removal) []any {
	return []any{
		"account", d.account.User, "session", session, "policy", d.u.o.Policy.Delete.String(),
		"mailbox", printable(string(d.inbox)), "ids", idsOf(removed), "removed", len(removed),
	}
}

// idsOf lists messages for a log line, which holds the beginning of a long list.
func idsOf(removed []upstream.Removal) string {
	const most = 1000
	var b strings.Builder
	for _, r := range removed {
		if b.Len() > most {
			b.WriteString(" ...")
			break
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(printable(r.Name))
	}
	return b.String()
}
