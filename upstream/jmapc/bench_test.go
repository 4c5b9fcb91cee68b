package jmapc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
)

// These measure against a bare client of the same real Cyrus, taking turns with
// it in the same run, and report the bare client's time divided by ours: more
// than 1 is faster than bare. To run them:
//
//	go test -run '^$' -bench . -benchtime 5x ./upstream/jmapc

// A bare client does what is needed, one request after the other, on net/http
// as it comes. With prompt set it uses our connections, without the stall that
// Cyrus's Nagle algorithm costs others.
type bare struct {
	http    *http.Client
	url     string
	account upstream.Account
}

func newBare(s *cyrus.Server, a upstream.Account, prompt bool) bare {
	b := bare{http: &http.Client{Transport: new(http.Transport)}, account: a, url: strings.Replace(s.JMAP, wellKnown, "", 1)}
	if prompt {
		b.http.Transport = newTransport(Options{URL: s.JMAP})
	}
	return b
}

func (b bare) request(t testing.TB, method, path, body string) []byte {
	r, err := http.NewRequestWithContext(context.Background(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(b.account.User, b.account.Password.Reveal())
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodGet {
		r.Header.Set("Accept-Encoding", "identity") // or Cyrus compresses mail
	}
	answer, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", answer.StatusCode, err)
	}
	return text
}

type bareEmail struct {
	ID, BlobID string
	Size       int64
}

func (b bare) list(t testing.TB) (all []bareEmail) {
	using := `"using":["urn:ietf:params:jmap:core","urn:ietf:params:jmap:mail"]`
	user := b.account.User
	var boxes struct{ MethodResponses [][]json.RawMessage }
	var got struct{ List []struct{ ID, Role string } }
	text := b.request(t, "POST", "/jmap/", fmt.Sprintf(`{%s,"methodCalls":[["Mailbox/get",{"accountId":%q,"properties":["role"]},"0"]]}`, using, user))
	decode(t, text, &boxes)
	decode(t, boxes.MethodResponses[0][1], &got)
	inbox := ""
	for _, m := range got.List {
		if m.Role == "inbox" {
			inbox = m.ID
		}
	}
	for {
		const limit = 4096
		text := b.request(t, "POST", "/jmap/", fmt.Sprintf(`{%s,"methodCalls":[
			["Email/query",{"accountId":%q,"filter":{"inMailbox":%q},"sort":[{"property":"receivedAt"}],"position":%d,"limit":%d},"0"],
			["Email/get",{"accountId":%q,"#ids":{"resultOf":"0","name":"Email/query","path":"/ids"},"properties":["id","blobId","size"]},"1"]]}`,
			using, user, inbox, len(all), limit, user))
		var page struct{ MethodResponses [][]json.RawMessage }
		var emails struct{ List []bareEmail }
		decode(t, text, &page)
		decode(t, page.MethodResponses[1][1], &emails)
		all = append(all, emails.List...)
		if len(emails.List) < limit {
			return all
		}
	}
}

func decode(t testing.TB, text []byte, v any) {
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func (b bare) fetch(t testing.TB, blob string) int {
	return len(b.request(t, "GET", "/jmap/download/"+b.account.User+"/"+blob+"/x?accept=message%2Frfc822", ""))
}

// fill makes a user with n messages of about size octets.
func fill(b *testing.B, n, size int) (*cyrus.Server, upstream.Account) {
	s := cyrus.Start(b)
	m := s.AddUser(b, "bob", "secret")
	var raw []string
	for i := range n {
		raw = append(raw, upstreamtest.Letter(i, size))
	}
	m.DeliverAll(b, raw)
	return s, m.Account()
}

// timed runs f and adds how long it took.
func timed(sum *time.Duration, f func()) {
	began := time.Now()
	f()
	*sum += time.Since(began)
}

func BenchmarkListing10000(b *testing.B) {
	s, a := fill(b, 10_000, 1000)
	client := newBare(s, a, true)
	u := onCyrus(b, s, Options{})
	var bareTime, ours time.Duration
	list := func() {
		d, err := u.Open(b.Context(), a)
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		if l, err := d.List(b.Context()); err != nil || l.Len() != 10_000 {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		timed(&bareTime, func() {
			if n := len(client.list(b)); n != 10_000 {
				b.Fatal(n)
			}
		})
		timed(&ours, list)
	}
	report(b, bareTime, ours)
}

func BenchmarkDrain2000(b *testing.B) {
	for _, kind := range []struct {
		name   string
		prompt bool
		n      int // of messages that the bare client reads
	}{{"bare", false, 100}, {"prompt", true, 2000}} {
		b.Run(kind.name, func(b *testing.B) {
			s, a := fill(b, 2000, 8000)
			client := newBare(s, a, kind.prompt)
			u := onCyrus(b, s, Options{})
			var bareTime, ours time.Duration
			drain := func() {
				d, l := open(b, u, a)
				defer d.Close()
				for i := range l.Len() {
					r, err := d.Fetch(b.Context(), i)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.Copy(io.Discard, r); err != nil || n != l.Size(i) {
						b.Fatal(n, err)
					}
					r.Close()
				}
			}
			for b.Loop() {
				timed(&bareTime, func() {
					for _, e := range client.list(b)[:kind.n] {
						if n := client.fetch(b, e.BlobID); int64(n) != e.Size {
							b.Fatal(n)
						}
					}
				})
				timed(&ours, drain)
			}
			report(b, bareTime*time.Duration(2000/kind.n), ours)
		})
	}
}

func report(b *testing.B, bareTime, ours time.Duration) {
	b.ReportMetric(bareTime.Seconds()/ours.Seconds(), "bare/ours")
	b.ReportMetric(ours.Seconds()*1000/float64(b.N), "ours-ms")
	b.ReportMetric(0, "ns/op") // both together, of no use
}

// BenchmarkRemove2000 has a bare client remove its messages as fast as that can
// be done, which is without a look before or after.
func BenchmarkRemove2000(b *testing.B) {
	s := cyrus.Start(b)
	var bareTime, ours time.Duration
	n := 0
	for b.Loop() {
		for _, bare := range []bool{true, false} {
			n++
			m := s.AddUser(b, fmt.Sprint("user", n), "secret")
			var raw []string
			for i := range 2000 {
				raw = append(raw, upstreamtest.Letter(i, 1000))
			}
			m.DeliverAll(b, raw)
			if bare {
				client := newBare(s, m.Account(), true)
				var ids []string
				for _, e := range client.list(b) {
					ids = append(ids, fmt.Sprintf("%q", e.ID))
				}
				timed(&bareTime, func() {
					client.request(b, "POST", "/jmap/", fmt.Sprintf(`{"using":["urn:ietf:params:jmap:core","urn:ietf:params:jmap:mail"],
						"methodCalls":[["Email/set",{"accountId":%q,"destroy":[%s]},"0"]]}`, m.Account().User, strings.Join(ids, ",")))
				})
				continue
			}
			d, l := open(b, onCyrus(b, s, Options{}), m.Account())
			all := make([]int, l.Len())
			for i := range all {
				all[i] = i
			}
			timed(&ours, func() {
				if n, err := d.Remove(b.Context(), all); n != 2000 || err != nil {
					b.Fatal(n, err)
				}
			})
			d.Close()
		}
	}
	report(b, bareTime, ours)
}
