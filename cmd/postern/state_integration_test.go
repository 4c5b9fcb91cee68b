package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
)

// TestKilledInMidSession: what a session has marked stays, and what clients
// were shown is shown again.
func TestKilledInMidSession(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	raw := letters(0, 40)
	deliver(t, box, raw)
	d := deploy(t, imapAt(s.IMAP), "")
	before := d.uidls()
	for n := 1; n <= 3; n++ {
		c := d.login("+OK")
		for i := range 10 * n {
			c.retrieve(i + 1)
			c.say(fmt.Sprint("DELE ", i+1), "+OK")
		}
		d.process.Process.Signal(syscall.SIGKILL)
		d.process.end(t)
		d.start()
		same(t, "the client sees", d.uidls(), before)
	}
	same(t, "the mailbox holds", box.Messages(t), raw)
}

// flips returns where a file of SQLite pages is to be damaged: in the head of
// every page, where it says what is where, and in two places farther down.
func flips(file []byte) (all []int) {
	const page = 4096
	for at := 0; at < len(file); at += page {
		head := at
		if at == 0 {
			head = 100 // behind the header of the file
		}
		all = append(all, head, head+5, at+page-700, at+page-40)
	}
	return all
}

// flip damages a few octets.
func flip(file []byte, at int) []byte {
	damaged := slices.Clone(file)
	for i := at; i < min(at+8, len(damaged)); i++ {
		damaged[i] ^= 0x5a
	}
	return damaged
}

// remembered is a deployment, not running, with unique-ids that nothing but
// its state knows, and these.
func remembered(t *testing.T) (d *deployment, uidls []string) {
	t.Helper()
	server := startIMAP(t, nil)
	server.add(t, "ann", "secret", 300)
	d = deploy(t, imapAt(server.address), "uidl: uw")
	uidls = d.uidls()
	d.stop()
	d.configure(imapAt(server.address), "")
	return d, uidls
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func write(t *testing.T, path string, file []byte) {
	t.Helper()
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFaultH7FlippedState: wherever state.db is damaged, it is not served and not
// replaced; or the login that needs what is damaged fails; or that was nothing.
// No client is ever shown other unique-ids.
func TestFaultH7FlippedState(t *testing.T) {
	t.Parallel()
	d, uidls := remembered(t)
	whole := read(t, d.state("state.db"))
	refused, failed, harmless := 0, 0, 0
	for _, at := range flips(whole) {
		damaged := flip(whole, at)
		os.Remove(d.state("state.db-wal"))
		os.Remove(d.state("state.db-shm"))
		write(t, d.state("state.db"), damaged)
		switch d.tryUIDLs(t, uidls) {
		case refusedToStart:
			refused++
			if !bytes.Equal(read(t, d.state("state.db")), damaged) {
				t.Errorf("octet %d damaged: the file was changed", at)
			}
		case loginFailed:
			failed++
		default:
			harmless++
		}
	}
	t.Logf("%d octets: %d places damaged; %d times refused to start, %d logins failed, %d times nothing lost", len(whole), refused+failed+harmless, refused, failed, harmless)
	if refused == 0 || failed == 0 {
		t.Errorf("%d times refused to start, %d logins failed; want some of both", refused, failed)
	}
}

const (
	refusedToStart = iota
	loginFailed
	shownAsBefore
)

// tryUIDLs starts the gateway, and compares what a client sees if it sees anything.
func (d *deployment) tryUIDLs(t *testing.T, uidls []string) int {
	t.Helper()
	p := spawn(t, "serve", "--config", d.config)
	defer func() { p.Process.Kill(); p.Wait() }()
	line := p.awaitAny(t, "started", "postern: ")
	if !strings.Contains(line, "started") {
		if code := p.end(t); code != exitFailed || !strings.Contains(p.output(), "Restore it from a backup") && !strings.Contains(p.output(), "state in ") {
			t.Errorf("exit code %d, want 1 and what to do:\n%s", code, p.output())
		}
		return refusedToStart
	}
	c := dialPOP(t, addressInLog.FindStringSubmatch(p.output())[1], nil)
	c.say("USER ann", "+OK")
	c.PrintfLine("PASS secret")
	answer, err := c.ReadLine()
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(answer, "-ERR [SYS/TEMP]") {
		return loginFailed
	}
	lines := c.lines("UIDL")
	for i := range lines {
		_, lines[i], _ = strings.Cut(lines[i], " ")
	}
	same(t, "the client sees", lines, uidls)
	return shownAsBefore
}

// awaitAny returns the next line that holds one of parts.
func (p *process) awaitAny(t *testing.T, parts ...string) string {
	t.Helper()
	slow := time.AfterFunc(30*time.Second, func() { p.Process.Kill() })
	defer slow.Stop()
	for line := range p.lines {
		for _, part := range parts {
			if strings.Contains(line, part) {
				return line
			}
		}
	}
	t.Fatalf("postern ended, or does not say any of %q:\n%s", parts, p.output())
	return ""
}

// TestStateGone: a state.db that is missing where there was one is not replaced.
func TestStateGone(t *testing.T) {
	t.Parallel()
	d, _ := remembered(t)
	if err := os.Remove(d.state("state.db")); err != nil {
		t.Fatal(err)
	}
	code, _, errors := runHere("", "serve", "--config", d.config)
	if code != exitFailed || !strings.Contains(errors, "state.db is missing") {
		t.Errorf("exit code %d, want 1 and that it is missing:\n%s", code, errors)
	}
	if _, err := os.Stat(d.state("state.db")); !os.IsNotExist(err) {
		t.Errorf("there is a new state.db: %v", err)
	}
}

// Damages of a whole file.
const (
	missing = -1 - iota
	garbage
)

// TestFaultH6CacheLostOrDamaged: the gateway serves all the same, and shows what is there.
func TestFaultH6CacheLostOrDamaged(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	deliver(t, box, letters(0, 300))
	d := deploy(t, imapAt(s.IMAP), "")
	known := d.download()
	d.uidls() // of a listing that is cached
	d.stop()
	whole := read(t, d.state("cache.db"))
	if !bytes.Contains(whole, []byte("INBOX")) {
		t.Error("the listing is not cached")
	}
	damages := []int{missing, garbage}
	for i, at := range flips(whole) {
		if i%5 == 0 { // each place of a page in turn
			damages = append(damages, at)
		}
	}
	for _, damage := range damages {
		os.Remove(d.state("cache.db-wal"))
		os.Remove(d.state("cache.db-shm"))
		switch damage {
		case missing:
			os.Remove(d.state("cache.db"))
		case garbage:
			write(t, d.state("cache.db"), []byte("not a database at all"))
		default:
			write(t, d.state("cache.db"), flip(whole, damage))
		}
		d.start()
		if damage < 0 {
			downloadsAgain(t, d.download(), known, 0, 0)
		}
		c := d.login("+OK")
		c.say("STAT", fmt.Sprintf("+OK 300 %d", octets(known)))
		c.quit()
		if got := d.uidls(); len(got) != 300 || slices.ContainsFunc(got, func(u string) bool { return known[u] == "" }) {
			t.Errorf("octet %d damaged: %d messages, and not under the unique-ids that they had", damage, len(got))
		}
		d.stop()
	}
}

// octets is how long messages are, as POP3 counts.
func octets(drop map[string]string) (n int) {
	for _, text := range drop {
		n += len(text) + strings.Count(text, "\n")
	}
	return n
}

// smallDisk is a file system with room for a few hundred kilobytes.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("only root can mount a small disk, on Linux")
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "postern-test", dir).CombinedOutput(); err != nil {
		t.Skipf("no small disk to be had here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// TestFaultH5DiskFull: what removes is refused, what reads goes on, and nothing has to
// be done once there is room again.
func TestFaultH5DiskFull(t *testing.T) {
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	raw := letters(0, 20)
	deliver(t, box, raw)
	disk := smallDisk(t)
	d := deploy(t, imapAt(s.IMAP), "")
	d.stop()
	config := strings.ReplaceAll(string(read(t, d.config)), "state: {path: state}", fmt.Sprintf("state: {path: %q}", filepath.Join(disk, "state")))
	write(t, d.config, []byte(config))
	d.start()
	t.Cleanup(func() { d.process.Process.Kill(); d.process.Wait() }) // before the disk goes
	known := d.download()

	fill(t, filepath.Join(disk, "fill"))
	c := d.login("+OK")
	c.say("DELE 1", "+OK")
	c.say("QUIT", "-ERR [SYS/TEMP]")
	c.expectEnd()
	same(t, "the mailbox holds", box.Messages(t), raw)

	late := upstreamtest.Letter(100, 400)
	box.Deliver(t, late)
	now := d.download()
	downloadsAgain(t, now, known, 0, 1)
	d.counts(`postern_removals_failed_total{listener="127.0.0.1:0"}`, 1)
	d.counts(`postern_removal_journal_failed_total{upstream="there"}`, 1)

	if err := os.Remove(filepath.Join(disk, "fill")); err != nil {
		t.Fatal(err)
	}
	downloadsAgain(t, d.download(), now, 0, 0)
	c = d.login("+OK")
	c.say("DELE 1", "+OK")
	c.quit()
	same(t, "the mailbox holds", box.Messages(t), append(raw[1:], late))
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
