package state

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/upstream"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("STATE_TEST_WRITE_INTENTS"); dir != "" {
		writeIntents(dir)
	}
	if dir := os.Getenv("STATE_TEST_RENEW_SECRETS"); dir != "" {
		renewSecrets(dir)
	}
	goleak.VerifyTestMain(m)
}

// opened opens the store in dir until the test ends.
func opened(t testing.TB, o Options) *store {
	t.Helper()
	s, err := open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func begin(t testing.TB, s Store, session string) (int64, error) {
	t.Helper()
	return s.Journal("office").Begin(context.Background(), upstream.Intent{Account: "bob", Session: session, Names: "1:9"})
}

func sessions(t testing.TB, s Store) []string {
	t.Helper()
	found, err := s.Journal("office").Pending(context.Background(), "bob")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, i := range found {
		all = append(all, i.Session)
	}
	return all
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with 100% odd?chars#", "state")
	s := opened(t, Options{Dir: dir, Serve: true})
	if _, err := begin(t, s, "one"); err != nil {
		t.Fatal(err)
	}
	s.SaveListing(t.Context(), ListingKey{}, []byte("x"))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v; want 0700", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", f.Name(), info.Mode(), err)
		}
	}
	if got, want := strings.Join(names, " "), "cache.db cache.db-shm cache.db-wal lock state.db state.db-shm state.db-wal"; got != want {
		t.Errorf("files %s, want %s", got, want)
	}
}

func TestWritesAreDurable(t *testing.T) {
	s := opened(t, Options{Dir: t.TempDir()})
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
		var got string
		if err := s.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %s, %v; want %s", pragma, got, err, want)
		}
	}
}

func TestASecondServerIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := opened(t, Options{Dir: dir, Serve: true})
	if _, err := Open(t.Context(), Options{Dir: dir, Serve: true}); err == nil || !strings.Contains(err.Error(), "another postern serves from it") {
		t.Fatalf("second server: %v", err)
	}
	command := opened(t, Options{Dir: dir})
	if _, err := begin(t, command, "by a command"); err != nil {
		t.Errorf("a command beside the server: %v", err)
	}
	first.Close()
	opened(t, Options{Dir: dir, Serve: true})
}

func TestReadOnlyBesideAServer(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(t.Context(), Options{Dir: dir, ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where there is nothing: %v, want not found", err)
	}
	server := opened(t, Options{Dir: dir, Serve: true})
	look := opened(t, Options{Dir: dir, ReadOnly: true})
	for _, session := range []string{"one", "two"} {
		if _, err := begin(t, server, session); err != nil {
			t.Fatal(err)
		}
	}
	if got := sessions(t, look); len(got) != 2 {
		t.Errorf("read %q, want two sessions", got)
	}
	if _, err := begin(t, look, "three"); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Begin: %v, want ErrReadOnly", err)
	}
	if _, err := look.SaveLedger(t.Context(), "bob", LedgerChange{}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("SaveLedger: %v, want ErrReadOnly", err)
	}
	look.SaveListing(t.Context(), ListingKey{}, []byte("x"))
	if got := look.Listing(t.Context(), ListingKey{}); got != nil {
		t.Errorf("listing %q, want none", got)
	}
	server.Close()
	look.Close()
	alone := opened(t, Options{Dir: dir, ReadOnly: true})
	if got := sessions(t, alone); len(got) != 2 {
		t.Errorf("read without a server %q, want two sessions", got)
	}
}

func TestRetentionDropsWhatIsOld(t *testing.T) {
	s := opened(t, Options{Dir: t.TempDir(), Retention: 24 * time.Hour})
	start := time.Now()
	for day := range 3 {
		s.now = func() time.Time { return start.Add(time.Duration(day) * 20 * time.Hour) }
		id, err := begin(t, s, fmt.Sprint("ended on day ", day))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Journal("office").End(t.Context(), id, []upstream.Removal{{Name: "1"}, {Name: "2"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := begin(t, s, fmt.Sprint("day ", day)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := s.Removals(t.Context(), Query{})
	if err != nil || len(found) != 4 || found[0].Session != "ended on day 1" {
		t.Errorf("removals %+v, %v; want the four of days 1 and 2", found, err)
	}
	if got := strings.Join(sessions(t, s), ", "); got != "day 1, day 2" {
		t.Errorf("pending of %s, want day 1, day 2", got)
	}
	var orphans int
	if err := s.read.QueryRow("SELECT count(*) FROM removal WHERE intent NOT IN (SELECT id FROM intent)").Scan(&orphans); err != nil || orphans != 0 {
		t.Errorf("%d removals without an intent, %v", orphans, err)
	}
}

// A database as version 1 of the schema left it opens with everything in it,
// whether a person restored it from a dump or it is the very file (which commit
// 403bc4c wrote).
func TestVersion1Opens(t *testing.T) {
	t.Run("dump", func(t *testing.T) {
		dir := t.TempDir()
		text, err := os.ReadFile("testdata/v1.sql")
		if err != nil {
			t.Fatal(err)
		}
		execute(t, filepath.Join(dir, durableFile), string(text))
		opensVersion1(t, dir)
	})
	t.Run("file", func(t *testing.T) {
		dir := t.TempDir()
		f, err := os.Open("testdata/v1.db.gz")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		unpacked, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(unpacked)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, durableFile), content)
		opensVersion1(t, dir)
	})
}

func opensVersion1(t *testing.T, dir string) {
	t.Helper()
	if _, err := Open(t.Context(), Options{Dir: dir, ReadOnly: true}); !errors.Is(err, ErrOlder) {
		t.Errorf("for reading: %v, want ErrOlder", err)
	}
	s := opened(t, Options{Dir: dir})
	if got := sessions(t, s); len(got) != 1 || got[0] != "s-pending" {
		t.Errorf("pending of %q, want s-pending", got)
	}
	found, err := s.Removals(t.Context(), Query{})
	if err != nil || len(found) != 2 || found[1].Kept.Name != "77" || found[1].Fate != Undone {
		t.Errorf("removals %+v, %v; want two, the second undone", found, err)
	}
	l, err := s.Ledger(t.Context(), "bob")
	if err != nil || l.Version != 3 || string(l.Head) != "head" {
		t.Errorf("ledger %+v, %v; want version 3", l, err)
	}
	if got, err := s.Segments(t.Context(), "bob", []int64{5}); err != nil || string(got[0]) != "segment" {
		t.Errorf("segment %q, %v", got, err)
	}
	if version, err := schemaVersion(t.Context(), s.read); err != nil || version != len(schema) {
		t.Errorf("schema version %d, %v; want %d", version, err, len(schema))
	}
	if err := s.AddAccount(t.Context(), Account{Name: "bob"}, []ClientPassword{{Account: "bob"}}, []Sealed{{Version: 1}}); err != nil {
		t.Errorf("an account in it: %v", err)
	}
	s.Close()
	again := opened(t, Options{Dir: dir})
	one, err := again.Seed(t.Context())
	other, err2 := opened(t, Options{Dir: t.TempDir()}).Seed(t.Context())
	if err != nil || err2 != nil || bytes.Equal(one, other) {
		t.Errorf("seeds %x and %x, %v, %v; want one of each database's own", one, other, err, err2)
	}
}

// execute runs SQL on a file that no store has open.
func execute(t testing.TB, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}

func TestMigrationIsAllOrNothing(t *testing.T) {
	s := opened(t, Options{Dir: t.TempDir()})
	if _, err := begin(t, s, "before"); err != nil {
		t.Fatal(err)
	}
	good := append(schema[:len(schema):len(schema)], "ALTER TABLE intent ADD COLUMN more TEXT NOT NULL DEFAULT 'x'")
	bad := append(good, "CREATE TABLE half (id INTEGER); INSERT INTO no_such_table VALUES (1)")
	if err := migrate(t.Context(), s.write, bad); err == nil {
		t.Fatal("a step that fails: no error")
	}
	version, err := schemaVersion(t.Context(), s.write)
	if err != nil || version != len(good) {
		t.Errorf("version %d, %v; want %d, the last step that worked", version, err, len(good))
	}
	var half int
	if err := s.write.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").Scan(&half); err != nil || half != 0 {
		t.Errorf("%d tables of the failed step, %v; want none", half, err)
	}
	if got := sessions(t, s); len(got) != 1 {
		t.Errorf("pending of %q, want what was there before", got)
	}
}

func TestStateOfALaterVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	opened(t, Options{Dir: dir}).Close()
	execute(t, filepath.Join(dir, durableFile), fmt.Sprint("PRAGMA user_version = ", len(schema)+1))
	for _, o := range []Options{{Dir: dir}, {Dir: dir, ReadOnly: true}} {
		if _, err := Open(t.Context(), o); !errors.Is(err, ErrNewer) {
			t.Errorf("%+v: %v, want ErrNewer", o, err)
		}
	}
}

func TestAnotherProgramsDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	execute(t, filepath.Join(dir, durableFile), "CREATE TABLE theirs (id INTEGER)")
	if _, err := Open(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another program's") {
		t.Errorf("got %v, want it to say whose it is", err)
	}
}

// filled writes some of everything and closes the store.
func filled(t testing.TB, dir string) {
	t.Helper()
	s := opened(t, Options{Dir: dir})
	for i := range 60 {
		if _, err := begin(t, s, fmt.Sprintf("session %03d", i)); err != nil {
			t.Fatal(err)
		}
		_, err := s.SaveLedger(t.Context(), fmt.Sprint("account ", i), LedgerChange{
			Head: []byte("head"), Put: []Segment{{ID: 1, Data: bytes.Repeat([]byte{byte(i)}, 3000)}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.SaveListing(t.Context(), ListingKey{Name: "a"}, bytes.Repeat([]byte("listing"), 5000))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is done to the durable file, it is refused, or what is read
// from it is what was written; never less, never other, never a new database.
func TestFaultH7DamagedDatabaseIsNeverReplaced(t *testing.T) {
	source := t.TempDir()
	filled(t, source)
	whole, err := os.ReadFile(filepath.Join(source, durableFile))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.ReadFile(filepath.Join(source, cacheFile))
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string][]byte{
		"empty":    {},
		"one byte": whole[:1],
		"header":   append([]byte("not a database at all, really not."), whole[34:]...),
	}
	for at := 0; at+16 < len(whole); at += 4096 / 2 {
		torn := bytes.Clone(whole)
		for i := range 16 {
			torn[at+i] ^= 0xa5
		}
		damage[fmt.Sprint("flipped at ", at)] = torn
	}
	for n := 4096; n < len(whole); n += 8 * 4096 {
		damage[fmt.Sprint("cut at ", n)] = whole[:n]
		zeroed := bytes.Clone(whole)
		clear(zeroed[n:min(n+4096, len(zeroed))])
		damage[fmt.Sprint("zeroes at ", n)] = zeroed
	}
	refused := 0
	for name, content := range damage {
		dir := t.TempDir()
		path := filepath.Join(dir, durableFile)
		write(t, path, content)
		write(t, filepath.Join(dir, cacheFile), cache)
		s, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			refused++
			if !errors.Is(err, ErrDamaged) && !strings.Contains(err.Error(), "another program's") && !errors.Is(err, ErrNewer) {
				t.Errorf("%s: %v, want ErrDamaged", name, err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
				t.Errorf("%s: the refused file was changed, %v", name, err)
			}
			continue
		}
		honest(t, name, s)
		s.Close()
	}
	if refused < len(damage)/3 {
		t.Errorf("%d of %d damaged files refused: is the check done?", refused, len(damage))
	}
}

// honest checks that s answers what filled wrote, or an error.
func honest(t *testing.T, name string, s Store) {
	t.Helper()
	if found, err := s.Journal("office").Pending(t.Context(), "bob"); err == nil && len(found) != 60 {
		t.Errorf("%s: %d intents and no error, want 60", name, len(found))
	}
	for i := range 60 {
		account := fmt.Sprint("account ", i)
		l, err := s.Ledger(t.Context(), account)
		if err != nil {
			continue
		}
		if string(l.Head) != "head" {
			t.Errorf("%s: head %q of %s and no error", name, l.Head, account)
			continue
		}
		got, err := s.Segments(t.Context(), account, []int64{1})
		if err == nil && !bytes.Equal(got[0], bytes.Repeat([]byte{byte(i)}, 3000)) {
			t.Errorf("%s: another segment of %s and no error", name, account)
		}
	}
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMissingDatabaseIsNotBegunAnew(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	if err := os.Remove(filepath.Join(dir, durableFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Dir: dir}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "Restore it from a backup") {
		t.Errorf("got %v, want ErrDamaged and a hint", err)
	}
	if _, err := os.Stat(filepath.Join(dir, durableFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new database stands there: %v", err)
	}
}

// A damaged cache is a new cache, at start and while it is in use.
func TestFaultH6DamagedCacheIsRebuilt(t *testing.T) {
	source := t.TempDir()
	filled(t, source)
	whole, err := os.ReadFile(filepath.Join(source, cacheFile))
	if err != nil {
		t.Fatal(err)
	}
	key, want := ListingKey{Name: "a"}, bytes.Repeat([]byte("listing"), 5000)
	for at := -1; at < len(whole); at += 3000 {
		dir := t.TempDir()
		content := bytes.Clone(whole)
		name := "empty"
		if at < 0 {
			content = nil
		} else {
			name = fmt.Sprint("flipped at ", at)
			for i := range min(16, len(whole)-at) {
				content[at+i] ^= 0x5a
			}
		}
		write(t, filepath.Join(dir, cacheFile), content)
		write(t, filepath.Join(dir, durableFile), durable(t, source))
		s := opened(t, Options{Dir: dir})
		if got := s.Listing(t.Context(), key); got != nil && !bytes.Equal(got, want) {
			t.Errorf("%s: another listing was returned", name)
		}
		for range 2 { // the first may meet the damage, and mend it
			s.SaveListing(t.Context(), key, []byte("fresh"))
		}
		if got := s.Listing(t.Context(), key); string(got) != "fresh" {
			t.Errorf("%s: got %.20q after it was cached again, want fresh", name, got)
		}
		s.Close()
	}
}

func durable(t testing.TB, dir string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, durableFile))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestFaultH6CacheOfAnotherVersionIsSetAside(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	execute(t, filepath.Join(dir, cacheFile), fmt.Sprint("PRAGMA user_version = ", cacheVersion+1))
	s := opened(t, Options{Dir: dir})
	if got := s.Listing(t.Context(), ListingKey{Name: "a"}); got != nil {
		t.Errorf("got %.20q from a cache of another version", got)
	}
	s.SaveListing(t.Context(), ListingKey{Name: "a"}, []byte("fresh"))
	if got := s.Listing(t.Context(), ListingKey{Name: "a"}); string(got) != "fresh" {
		t.Errorf("got %q, want fresh", got)
	}
}

func TestCacheDropsTheOldest(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, Options{Dir: dir, CacheOctets: 10_000})
	put := func(i, octets int) {
		s.SaveListing(t.Context(), ListingKey{Account: fmt.Sprint(i)}, make([]byte, octets))
	}
	there := func(i int) bool { return s.Listing(t.Context(), ListingKey{Account: fmt.Sprint(i)}) != nil }
	for i := range 12 {
		put(i, 900)
	}
	put(5, 900) // written again, so it is not among the oldest any more
	put(12, 4000)
	put(13, 20_000) // more than everything: not cached
	var kept []int
	for i := range 14 {
		if there(i) {
			kept = append(kept, i)
		}
	}
	if got, want := fmt.Sprint(kept), "[5 7 8 9 10 11 12]"; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
	s.Close()
	s = opened(t, Options{Dir: dir, CacheOctets: 10_000})
	if s.cache.octets < 9000 || s.cache.octets > 10_000 {
		t.Errorf("%d octets counted after a restart, want what was kept", s.cache.octets)
	}
}

// full keeps a database from growing any further, as a full disk does.
func full(t *testing.T, db *sql.DB) {
	t.Helper()
	db.SetMaxOpenConns(1) // a pragma is its connection's
	if _, err := db.Exec("PRAGMA max_page_count = 1"); err != nil {
		t.Fatal(err)
	}
}

// A full disk is an error where a removal would rest on the write, and a
// missing listing where it is cached.
func TestFaultH5FullDisk(t *testing.T) {
	var logged bytes.Buffer
	s := opened(t, Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&logged, nil))})
	if _, err := begin(t, s, "before"); err != nil {
		t.Fatal(err)
	}
	full(t, s.write)
	full(t, s.cache.db)
	var err error
	written := 1
	for range 10_000 { // what free pages are left is used up
		if _, err = begin(t, s, strings.Repeat("x", 5000)); err != nil {
			break
		}
		written++
	}
	if err == nil {
		t.Fatal("Begin on a full disk: no error")
	}
	if got := sessions(t, s); len(got) != written {
		t.Errorf("%d intents, want the %d that were acknowledged", len(got), written)
	}
	for i := range 5 {
		s.SaveListing(t.Context(), ListingKey{Account: fmt.Sprint(i)}, make([]byte, 100_000))
		if got := s.Listing(t.Context(), ListingKey{Account: fmt.Sprint(i)}); got != nil {
			t.Fatal("a listing was cached on a full disk")
		}
	}
	if n := strings.Count(logged.String(), "listings are not cached now"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, logged.String())
	}
}

func TestNoCacheFileIsNoFailure(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, cacheFile+".damaged", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	opened(t, Options{Dir: dir}).Close()
	write(t, filepath.Join(dir, cacheFile), []byte("this is no database, so it is set aside, which the directory forbids"))
	s := opened(t, Options{Dir: dir})
	s.SaveListing(t.Context(), ListingKey{}, []byte("x"))
	if got := s.Listing(t.Context(), ListingKey{}); got != nil {
		t.Errorf("got %q without a file", got)
	}
	if _, err := begin(t, s, "one"); err != nil {
		t.Errorf("Begin without a cache: %v", err)
	}
}

// writeIntents is what the killed child of the next test does.
func writeIntents(dir string) {
	s, err := Open(context.Background(), Options{Dir: dir, Serve: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	j := s.Journal("office")
	for i := 0; ; i++ {
		id, err := j.Begin(context.Background(), upstream.Intent{Account: "bob", Session: fmt.Sprint(i)})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("begun", id)
		if i%3 == 0 {
			if err := j.End(context.Background(), id, []upstream.Removal{{Name: "1"}}); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println("ended", id)
		}
	}
}

// What Begin and End acknowledged before a SIGKILL is there afterwards.
func TestFaultH3KilledWriter(t *testing.T) {
	dir := t.TempDir()
	begun, ended := map[int64]bool{}, map[int64]bool{}
	for round := range 8 {
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), "STATE_TEST_WRITE_INTENTS="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		read := func() {
			word, number, _ := strings.Cut(lines.Text(), " ")
			id, err := strconv.ParseInt(number, 10, 64)
			switch {
			case err == nil && word == "begun":
				begun[id] = true
			case err == nil && word == "ended":
				ended[id] = true
			default:
				t.Fatalf("the child says: %s", lines.Text())
			}
		}
		for range 5 + 7*round {
			if !lines.Scan() {
				t.Fatalf("the child ended by itself: %v", lines.Err())
			}
			read()
		}
		child.Process.Kill()
		for lines.Scan() { // acknowledged between the last line and the signal
			if strings.Count(lines.Text(), " ") == 1 {
				read()
			}
		}
		io.Copy(io.Discard, out)
		child.Wait()
		verify(t, dir, begun, ended)
	}
	t.Logf("%d intents begun, %d ended, over 8 kills", len(begun), len(ended))
}

func verify(t *testing.T, dir string, begun, ended map[int64]bool) {
	t.Helper()
	s := opened(t, Options{Dir: dir, Serve: true})
	defer s.Close()
	pending := map[int64]bool{}
	found, err := s.Journal("office").Pending(t.Context(), "bob")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range found {
		pending[i.ID] = true
	}
	removed, err := s.Removals(t.Context(), Query{Limit: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	struck := 0 // ended before the signal, but not told any more
	for id := range begun {
		if ended[id] && pending[id] {
			t.Errorf("intent %d was acknowledged as ended, and is pending", id)
		}
		if !ended[id] && !pending[id] {
			struck++
		}
	}
	if got, want := len(removed), len(ended)+struck; got != want {
		t.Errorf("%d removals for %d ended intents: one was lost", got, want)
	}
}

// A server and commands that meet in a new directory make one store of it.
func TestOpenedTogether(t *testing.T) {
	for range 5 {
		dir := filepath.Join(t.TempDir(), "state")
		errs := make(chan error)
		for range 6 {
			go func() {
				s, err := Open(t.Context(), Options{Dir: dir})
				if err == nil {
					err = s.Close()
				}
				errs <- err
			}()
		}
		for range 6 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

// renewSecrets is what the killed children of the next test do: each renews the
// one secret as soon as it can.
func renewSecrets(dir string) {
	s, err := Open(context.Background(), Options{Dir: dir})
	for err == nil {
		var found Secret
		name := SecretName{"bob", "grant"}
		if found, err = s.Secret(context.Background(), name); err != nil {
			break
		}
		next := found.Current.Version + 1
		err = s.SaveSecret(context.Background(), found.Current.Version, Sealed{Name: name, Version: next, Key: "k", Data: fmt.Append(nil, next)})
		switch {
		case err == nil:
			fmt.Println("saved", next)
		case errors.Is(err, ErrConflict):
			err = nil
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// Of several processes that renew a secret, one writes each generation, and what
// it was told to be written is there after a SIGKILL.
func TestFaultH3KilledRenewals(t *testing.T) {
	dir := t.TempDir()
	saved := map[string]int{}
	last := 0
	for range 3 {
		var children []*exec.Cmd
		var outputs []*bufio.Scanner
		for range 3 {
			child := exec.Command(os.Args[0], "-test.run=^$")
			child.Env = append(os.Environ(), "STATE_TEST_RENEW_SECRETS="+dir)
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			children, outputs = append(children, child), append(outputs, bufio.NewScanner(out))
		}
		read := func(line string) {
			number, ok := strings.CutPrefix(line, "saved ")
			version, err := strconv.Atoi(number)
			if !ok || err != nil {
				t.Fatalf("a child says: %s", line)
			}
			saved[number]++
			last = max(last, version)
		}
		for _, lines := range outputs {
			for range 10 {
				if !lines.Scan() {
					t.Fatalf("a child ended by itself: %v", lines.Err())
				}
				read(lines.Text())
			}
		}
		for _, child := range children {
			child.Process.Kill()
		}
		for _, lines := range outputs {
			for lines.Scan() {
				if strings.HasPrefix(lines.Text(), "saved ") {
					read(lines.Text())
				}
			}
		}
		for _, child := range children {
			child.Wait()
		}
	}
	for version, times := range saved {
		if times != 1 {
			t.Errorf("version %s was written %d times", version, times)
		}
	}
	got, err := opened(t, Options{Dir: dir}).Secret(t.Context(), SecretName{"bob", "grant"})
	// A child may have been killed between its last write and telling of it.
	if err != nil || got.Current.Version < int64(last) || string(got.Current.Data) != fmt.Sprint(got.Current.Version) || got.Former.Version != got.Current.Version-1 {
		t.Errorf("secret %+v, %v; want at least version %d, and the one before it", got, err, last)
	}
}

func FuzzUnseal(f *testing.F) {
	f.Add([]byte("data"), "bob", int64(1))
	f.Add([]byte{}, "", int64(headID))
	f.Fuzz(func(t *testing.T, data []byte, owner string, id int64) {
		sealed := seal(data, owner, id)
		if got, err := unseal(sealed, owner, id); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %q, %v; want %q", got, err, data)
		}
		if _, err := unseal(sealed, owner+"x", id); err == nil {
			t.Error("another owner's data was accepted")
		}
		if _, err := unseal(sealed, owner, id+1); err == nil {
			t.Error("another segment's data was accepted")
		}
		sealed[len(data)/2] ^= 1
		if _, err := unseal(sealed, owner, id); err == nil {
			t.Error("a flipped bit was accepted")
		}
		if got, err := unseal(data, owner, id); err == nil && !bytes.Equal(seal(got, owner, id), data) {
			t.Errorf("%q was accepted as sealed", data)
		}
	})
}

func BenchmarkBegin(b *testing.B) {
	s := opened(b, Options{Dir: b.TempDir()})
	for b.Loop() {
		if _, err := begin(b, s, "s"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBeginEnd is what a QUIT with 10 marked messages costs the journal.
func BenchmarkBeginEnd(b *testing.B) {
	s := opened(b, Options{Dir: b.TempDir()})
	removed := make([]upstream.Removal, 10)
	for b.Loop() {
		id, err := begin(b, s, "s")
		if err == nil {
			err = s.Journal("office").End(b.Context(), id, removed)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSegments reads a ledger of 100,000 messages, 34 octets each.
func BenchmarkSegments(b *testing.B) {
	s := opened(b, Options{Dir: b.TempDir()})
	c := LedgerChange{Head: make([]byte, 1000)}
	var ids []int64
	for i := range int64(25) {
		c.Put = append(c.Put, Segment{ID: i, Data: make([]byte, 4096*34)})
		ids = append(ids, i)
	}
	if _, err := s.SaveLedger(b.Context(), "bob", c); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Ledger(b.Context(), "bob"); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Segments(b.Context(), "bob", ids); err != nil {
			b.Fatal(err)
		}
	}
}

func TestExpiredInvitationsAreDropped(t *testing.T) {
	s := opened(t, Options{Dir: t.TempDir()})
	for i, expires := range []time.Duration{-time.Hour, time.Hour} {
		if err := s.Invite(t.Context(), Invitation{Account: fmt.Sprint(i), Token: TokenHash{byte(i)}, Expires: time.Now().Add(expires)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.dropExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left string
	if err := s.read.QueryRow("SELECT group_concat(account) FROM invitation").Scan(&left); err != nil || left != "1" {
		t.Errorf("left are %q, %v; want the one that can be used still", left, err)
	}
}

// BenchmarkLogin is what the login of an account asks of the state.
func BenchmarkLogin(b *testing.B) {
	s := opened(b, Options{Dir: b.TempDir()})
	for i := range 1000 {
		name := fmt.Sprint("user", i)
		if err := s.AddAccount(b.Context(), Account{Name: name}, []ClientPassword{{Account: name, Label: "a"}, {Account: name, Label: "b"}},
			[]Sealed{{Name: SecretName{name, "p"}, Version: 1, Data: make([]byte, 100)}}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := s.Account(b.Context(), "user500"); err != nil {
			b.Fatal(err)
		}
		if _, err := s.ClientPasswords(b.Context(), "user500"); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Secret(b.Context(), SecretName{"user500", "p"}); err != nil {
			b.Fatal(err)
		}
	}
}
