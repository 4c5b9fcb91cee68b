package main

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/proxy/ledger"
	"postern/proxy/state"
	"postern/upstream"
)

// A remembering is a configuration with a state that a test has filled.
type remembering struct {
	t     *testing.T
	path  string
	store state.Store
}

// remember opens the state of a configuration with an upstream of these lines.
func remember(t *testing.T, upstreamLines string) remembering {
	t.Helper()
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {%s}}
routes: [{user: "*@example.org", upstream: office, delete: trash}]
`, upstreamLines)
	store, err := state.Open(t.Context(), state.Options{Dir: filepath.Join(filepath.Dir(path), "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return remembering{t, path, store}
}

const nowhere = `protocol: imap, address: "imap.example.org:993"`

// removed records a removal.
func (r remembering) removed(at string, i upstream.Intent, removals ...upstream.Removal) {
	r.t.Helper()
	j := r.store.Journal(at)
	id, err := j.Begin(r.t.Context(), i)
	if err == nil {
		err = j.End(r.t.Context(), id, removals)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r remembering) run(args ...string) (code int, out, err string) {
	return runHere("", append(args, "--config", r.path)...)
}

// history is an account with one removal of every kind.
func history(t *testing.T) remembering {
	r := remember(t, nowhere)
	ann := upstream.Intent{Account: "ann@example.org", Session: "SESSION1", Policy: "trash", Mailbox: "INBOX", Validity: "17"}
	r.removed("office", ann,
		upstream.Removal{Name: "1", UIDL: "17.1", Size: 1000, Kept: upstream.Place{Mailbox: "Trash", Validity: "18", Name: "5"}},
		upstream.Removal{Name: "2", UIDL: "17.2", Size: 2000, Kept: upstream.Place{Mailbox: "Trash\x1b[2J", Validity: "18", Name: "6"}})
	ann.Session, ann.Policy = "SESSION2", "expunge"
	r.removed("office", ann, upstream.Removal{Name: "3", UIDL: "17.3", Size: 3000})
	ann.Session, ann.Policy = "SESSION3", "trash"
	r.removed("attic", ann, upstream.Removal{Name: "4", UIDL: "17.4", Size: 4000, Kept: upstream.Place{Mailbox: "Trash", Name: "7"}})
	ann.Session = "SESSION4"
	r.removed("office", ann,
		upstream.Removal{Name: "5", UIDL: "17.5", Size: 5000, Kept: upstream.Place{Mailbox: "Trash", Name: "8"}},
		upstream.Removal{Name: "6", UIDL: "17.6", Size: 6000, Kept: upstream.Place{Mailbox: "Trash", Name: "9"}})
	if err := r.store.Settle(t.Context(), state.Purged, 5); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Settle(t.Context(), state.Undone, 6); err != nil {
		t.Fatal(err)
	}
	ann.Account = "bob@example.org"
	r.removed("office", ann, upstream.Removal{Name: "9", UIDL: "99.9", Size: 9})
	return r
}

func TestRemovalsAreListed(t *testing.T) {
	r := history(t)
	code, out, errors := r.run("removals", "--user", "ann@example.org")
	if code != exitFine || errors != "" {
		t.Fatalf("exit code %d and %q, want 0 and nothing", code, errors)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 7 {
		t.Fatalf("%d lines, want a head and 6:\n%s", len(lines), out)
	}
	for i, want := range []string{
		"ID TIME SESSION UPSTREAM MAILBOX VALIDITY NAME UIDL SIZE POLICY KEPT IN FATE",
		"1 @ SESSION1 office INBOX 17 1 17.1 1000 trash Trash kept",
		`2 @ SESSION1 office INBOX 17 2 17.2 2000 trash "Trash\x1b[2J" kept`,
		"3 @ SESSION2 office INBOX 17 3 17.3 3000 expunge - gone",
		"4 @ SESSION3 attic INBOX 17 4 17.4 4000 trash Trash kept",
		"5 @ SESSION4 office INBOX 17 5 17.5 5000 trash Trash purged @",
		"6 @ SESSION4 office INBOX 17 6 17.6 6000 trash Trash brought back @",
	} {
		got := strings.Join(strings.Fields(withoutTimes(lines[i])), " ")
		if got != want {
			t.Errorf("line %d\n got %s\nwant %s", i, got, want)
		}
	}
}

// withoutTimes writes @ for what is a date and a time of today.
func withoutTimes(line string) string {
	for at := 0; at+len(time.DateTime) <= len(line); at++ {
		if _, err := time.Parse(time.DateTime, line[at:at+len(time.DateTime)]); err == nil {
			line = line[:at] + "@" + line[at+len(time.DateTime):]
		}
	}
	return line
}

func TestRemovalsAreSelected(t *testing.T) {
	r := history(t)
	for _, test := range []struct {
		args string
		want string // ids
	}{
		{"", "1 2 3 4 5 6"},
		{"--since 1d", "1 2 3 4 5 6"},
		{"--since 0s", ""},
		{"--session SESSION1", "1 2"},
		{"--id 2,4", "2 4"},
		{"--id 2 --session SESSION2", ""},
	} {
		code, out, errors := r.run(append([]string{"removals", "--json", "--user", "ann@example.org"}, strings.Fields(test.args)...)...)
		var ids []string
		for line := range strings.Lines(out) {
			var l removalLine
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if since := time.Since(l.Time); l.Account != "ann@example.org" || since < 0 || since > time.Hour {
				t.Errorf("%s: account or time is not what was recorded", line)
			}
			ids = append(ids, strconv.FormatInt(l.ID, 10))
		}
		if got := strings.Join(ids, " "); code != exitFine || errors != "" || got != test.want {
			t.Errorf("%s: exit code %d, %q, ids %s; want 0, nothing, %s", test.args, code, errors, got, test.want)
		}
	}
}

func TestNobodysRemovals(t *testing.T) {
	r := history(t)
	code, out, errors := r.run("removals", "--user", "ANN@example.org")
	if code != exitFine || out != "" || !strings.Contains(errors, "capitals count") {
		t.Errorf("exit code %d, %q, %q; want 0, nothing, and a hint at capitals", code, out, errors)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-03-01":                now.AddDate(0, 0, -28).Add(-12 * time.Hour),
		"2026-03-01T08:00:00+02:00": time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC),
		"7d":                        now.AddDate(0, 0, -7),
		"90m":                       now.Add(-90 * time.Minute),
		"0s":                        now,
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1d", "-2h", "yesterday", "2026-02-30", "1.5d"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestUndeleteSaysWhatCannotComeBack(t *testing.T) {
	r := history(t)
	code, out, errors := r.run("undelete", "--user", "ann@example.org", "--dry-run")
	if code != exitFailed {
		t.Errorf("exit code %d, want 1", code)
	}
	got := strings.TrimSpace(withoutTimes(out) + errors)
	want := `3, removed @, 17.3: the policy expunge kept nothing
4, removed @, 17.4: it is at the upstream attic, where no route leads for this user now
5, removed @, 17.5: it was kept until @ and then purged
2 messages would be brought back.
postern: 3 messages not brought back`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, test := range []struct {
		args string
		code int
		says string
	}{
		{"--user ann@example.org --session SESSION1 --dry-run", exitFine, "2 messages would be brought back"},
		{"--user ann@example.org --session SESSION2", exitFailed, "1 message cannot be brought back"},
		{"--user ann@example.org --session NONE", exitFailed, "nothing of ann@example.org can be brought back"},
		{"--user ann@example.org --id 6", exitFailed, "nothing of"},
		{"--user ann@example.net", exitFailed, "no route takes the user"},
		{"--user ann@example.org --since monday", exitUsage, "is no time"},
		{"", exitUsage, "--user is missing"},
	} {
		code, out, errors := r.run(append([]string{"undelete"}, strings.Fields(test.args)...)...)
		if said := out + errors; code != test.code || !strings.Contains(said, test.says) {
			t.Errorf("%s: exit code %d and\n%s\nwant %d and %q", test.args, code, said, test.code, test.says)
		}
	}
}

func TestAccept(t *testing.T) {
	r := remember(t, nowhere)
	code, out, errors := r.run("uidl", "accept", "--user", "Ann@Example.org")
	if code != exitFailed || !strings.Contains(errors, "no UIDLs were ever issued") {
		t.Errorf("without a ledger: exit code %d, %q; want 1 and a reason", code, out+errors)
	}
	if _, err := ledger.Import(t.Context(), r.store, "ann@example.org", []ledger.Known{{UIDL: "x", Name: "1.1"}}); err != nil {
		t.Fatal(err)
	}
	code, out, errors = r.run("uidl", "accept", "--user", "Ann@Example.org")
	if code != exitFine || out != "The next login of Ann@Example.org is let through.\n" {
		t.Errorf("exit code %d, %q, want 0 and that it is let through", code, out+errors)
	}
	if code, _, errors := r.run("uidl", "accept"); code != exitUsage {
		t.Errorf("without a user: exit code %d, %q; want 2", code, errors)
	}
}

func TestCommandsNeedAState(t *testing.T) {
	fresh, off := writeConfig(t, without, ""), writeConfig(t, without, "\nstate: off")
	for _, command := range []string{"removals --user a", "undelete --user a --dry-run", "uidl accept --user a"} {
		for path, want := range map[string]string{fresh: "", off: "state: off"} {
			code, out, errors := runHere("", append(strings.Fields(command), "--config", path)...)
			if code != exitFailed || !strings.Contains(errors, want) {
				t.Errorf("%s: exit code %d, %q; want 1 and %q", command, code, out+errors, want)
			}
		}
	}
	code, _, errors := runHere("", "removals", "--user", "a", "--config", writeConfig(t, without, ""))
	if code != exitFailed || !strings.Contains(errors, "There is no state yet") {
		t.Errorf("exit code %d, %q; want 1 and that there is none yet", code, errors)
	}
}

const without = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]%s
`
