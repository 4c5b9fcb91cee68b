package compare

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	r := &Report{Taken: time.Date(2026, 11, 2, 15, 0, 0, 0, time.UTC), Host: "a machine"}
	r.atLeast(Row{Line: "drain", What: "RETR", RTT: near, Ours: 4000, Unit: "messages/s", By: "native", Theirs: 2000}, 1)
	r.atMostTimes(Row{Line: "cpu", What: "of a MB", Ours: 8, Unit: "ms", By: "relay", Theirs: 2}, 3)
	r.atMost(Row{Line: "big", What: "growth", Ours: 10, Unit: "MB", Note: "(once)"}, 10)
	r.told(Row{Line: "poll", What: "fresh", Ours: 1.25, Unit: "sessions/s", By: "imapc", Theirs: 2.5})

	want := `| line | what | RTT | postern | measured by | its figure | ratio | to reach | reached |
|---|---|---|---|---|---|---|---|---|
| drain | RETR | 20 ms | 4000 messages/s | native | 2000 messages/s | 2 | ≥ 1 × native | yes |
| cpu | of a MB | 0 ms | 8 ms | relay | 2 ms | 4 | ≤ 3 × relay | NO |
| big | growth | 0 ms | 10 MB |  |  |  | ≤ 10 MB | yes (once) |
| poll | fresh | 0 ms | 1.25 sessions/s | imapc | 2.5 sessions/s | 0.5 |  |  |

Taken 2026-11-02T15:00:00Z on a machine.
`
	var got bytes.Buffer
	if err := r.WriteMarkdown(&got); err != nil || got.String() != want {
		t.Errorf("got (%v)\n%s\nwant\n%s", err, &got, want)
	}
	got.Reset()
	if err := r.WriteText(&got); err != nil || strings.Count(got.String(), "\n") != 7 {
		t.Errorf("got (%v)\n%s\nwant a line for each row, a head and a foot", err, &got)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(test.of); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.of, got, test.want)
		}
	}
}

func TestMailIsOfTheSizeThatIsSaid(t *testing.T) {
	sum := 0
	for i := range 2000 {
		sum += mailSize(i)
	}
	if mean := sum / 2000; mean < 44000 || mean > 48000 {
		t.Errorf("mean size %d octets, want about 46,000", mean)
	}
}

func TestReadLiterals(t *testing.T) {
	const answer = "* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n* 2 FETCH (FLAGS ())\r\n* 2 FETCH (UID 2 BODY[] {5}\r\na {9})\r\na OK done\r\n"
	n, digest, err := readLiterals(bufio.NewReader(strings.NewReader(answer)))
	if n != 2 || digest == 0 || err != nil {
		t.Errorf("%d literals, digest %x, %v; want 2", n, digest, err)
	}
	for _, broken := range []string{answer[:40], "a NO sorry\r\n", "* 1 FETCH (BODY[] {99999999999999999999}\r\n"} {
		if n, _, err := readLiterals(bufio.NewReader(strings.NewReader(broken))); err == nil {
			t.Errorf("%q: %d literals and no error", broken, n)
		}
	}
}

func TestUnknownLine(t *testing.T) {
	if _, err := Run(t.Context(), Options{Lines: []string{"drain", "fly"}}); err == nil || !strings.Contains(err.Error(), `"fly"`) {
		t.Errorf("error %v, want one that names the line", err)
	}
}

func TestHarnessTurnsFailuresIntoErrors(t *testing.T) {
	h := harness{b: &bench{}}
	if err := attempt(func() { h.Fatalf("no %s", "luck") }); err == nil || err.Error() != "no luck" {
		t.Errorf("error %v, want no luck", err)
	}
	if err := attempt(func() { h.Skip("no Cyrus") }); !errors.Is(err, errNotHere) {
		t.Errorf("error %v, want errNotHere", err)
	}
	if err := attempt(func() {}); err != nil {
		t.Errorf("error %v, want none", err)
	}
}

// TestShortComparison runs two lines with real servers, for their content
// only: time never fails a test.
func TestShortComparison(t *testing.T) {
	if _, err := exec.LookPath("dovecot"); os.Getenv("POSTERN_REAL") != "1" {
		t.Skipf("real servers are used where POSTERN_REAL is 1 (dovecot: %v)", err)
	}
	var log bytes.Buffer
	report, err := Run(t.Context(), Options{
		Checkout: "../../../..", Lines: []string{"drain", "delete"}, RTTs: []time.Duration{0}, Rounds: 1, Quick: true, Log: &log,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	var by []string
	for _, r := range report.Rows {
		by = append(by, r.By)
	}
	if want := []string{"native", "itself without", "imapc", "bare IMAP, one command", "imapc and one RTT"}; !slices.Equal(by, want) {
		t.Errorf("compared with %q, want %q", by, want)
	}
}
