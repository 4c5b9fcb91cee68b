package migrate

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/proxy/ledger"
)

// tree writes files into a new directory. A name that ends in a slash is one.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, received, received); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func named(validity, uid uint32) string { return fmt.Sprintf("%d.%d", validity, uid) }

var received = time.Unix(1_700_000_000, 0)

const letter = "Subject: hello\n\nworld\n" // 25 octets on the wire

func headerOf(t *testing.T, text string) ledger.Header {
	t.Helper()
	h, ok, err := ledger.HeaderOf(strings.NewReader(text))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return h
}

func wantMap(t *testing.T, m *Map, err error, want []ledger.Known, skipped ...Skip) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, m.Known); diff != "" {
		t.Errorf("known (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(skipped, m.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
}

func TestDovecotUIDList(t *testing.T) {
	dir := tree(t, map[string]string{
		"dovecot-uidlist": `3 V1275660208 N25022 G3085f01b7f11094c501100008c4a11c1
1 :1276528487.M364837P9451.kurkku,S=23,W=25:2,
2 W25 Pold-2 :1276528488.M1P1.host
3 O7 :1276528489.M1P1.host
4 W99 :1276528490.gone
5 :1276528491.gone
6 W25 Pold-2 :1276528488.M1P1.host
7 W25 Pgr` + "\xfc" + `n :1276528488.M1P1.host
`,
		"cur/1276528487.M364837P9451.kurkku,S=23,W=25:2,RS": letter,
		"new/1276528488.M1P1.host":                          letter,
		"cur/1276528489.M1P1.host:2,":                       strings.ReplaceAll(letter, "\n", "\r\n") + "no end",
	})
	h := headerOf(t, letter)
	m, err := Dovecot(filepath.Join(dir, "dovecot-uidlist"), func(validity, uid uint32) string { return fmt.Sprint(validity, "-", uid) }, named)
	wantMap(t, m, err, []ledger.Known{
		{UIDL: "1275660208-1", Name: "1275660208.1", Size: 25, Header: h, HasHeader: true, Received: received},
		{UIDL: "old-2", Name: "1275660208.2", Size: 25, Header: h, HasHeader: true, Received: received},
		{UIDL: "1275660208-3", Name: "1275660208.3", Size: 31, Header: h, HasHeader: true, Received: received},
		{UIDL: "1275660208-4", Name: "1275660208.4", Size: 99},
		{UIDL: "1275660208-5", Name: "1275660208.5"},
	},
		Skip{`"old-2"`, "another message has this unique-id, too"},
		Skip{`"gr\xfcn"`, "not a unique-id: 1 to 70 octets from ! to ~"},
	)
}

// TestDovecotVersion1: Courier's IMAP server had that format first.
func TestDovecotVersion1(t *testing.T) {
	dir := tree(t, map[string]string{
		"dovecot-uidlist":                   "1 1275660208 8\n7 1276528488.M1P1.host,W=25\n",
		"cur/1276528488.M1P1.host,W=25:2,S": letter,
	})
	m, err := Dovecot(filepath.Join(dir, "dovecot-uidlist"), func(_, uid uint32) string { return fmt.Sprint(uid) }, named)
	wantMap(t, m, err, []ledger.Known{{UIDL: "7", Name: "1275660208.7", Size: 25, Header: headerOf(t, letter), HasHeader: true, Received: received}})
}

func TestNoDovecotUIDLists(t *testing.T) {
	for name, text := range map[string]string{
		"empty":          "",
		"another file":   "\x00\x01\x02\n",
		"version 2":      "2 1 1\n",
		"no UIDVALIDITY": "3 N1 G00\n",
		"UID 0":          "3 V1 N1\n0 :a\n",
		"no UID":         "3 V1 N1\n:a\n",
		"no name":        "3 V1 N1\n1 W10\n",
		"bad size":       "3 V1 N1\n1 Wx :a\n",
		"huge UID":       "3 V1 N1\n4294967296 :a\n",
		"endless line":   "3 V1 N1\n1 :" + strings.Repeat("a", maxLine+1),
	} {
		path := filepath.Join(tree(t, map[string]string{"dovecot-uidlist": text}), "dovecot-uidlist")
		if m, err := Dovecot(path, func(_, uid uint32) string { return fmt.Sprint(uid) }, named); err == nil {
			t.Errorf("%s: read as %+v, want an error", name, m)
		}
	}
}

func TestCourier(t *testing.T) {
	h := headerOf(t, letter)
	for version, text := range map[string]string{
		"3": "/3 4 1140000000\n1.M1.host,S=23 25 1:1140000000:0\n2.M2.host 25 2:0:1\n3.M3.host 25 0:0:0\n",
		"2": "/2 4 1140000000\n1.M1.host,S=23:2,S 25 1:1140000000\n2.M2.host 25 2:0\n3.M3.host 25 0:0\n",
	} {
		dir := tree(t, map[string]string{
			"courierpop3dsizelist":    text,
			"cur/1.M1.host,S=23:2,ST": letter, "new/2.M2.host": letter, "cur/3.M3.host:2,": letter,
		})
		m, err := Courier(dir)
		wantMap(t, m, err, []ledger.Known{
			{UIDL: "UID1-1140000000", Size: 25, Header: h, HasHeader: true, Received: received},
			{UIDL: "UID2", Size: 25, Header: h, HasHeader: true, Received: received},
			{UIDL: "3.M3.host", Size: 25, Header: h, HasHeader: true, Received: received},
		})
		if t.Failed() {
			t.Fatalf("version %s", version)
		}
	}
}

func TestCouriersFirstVersions(t *testing.T) {
	dir := tree(t, map[string]string{
		"courierpop3dsizelist": "1.it's+me 25\n2.gone 25\n",
		"cur/1.it's+me:2,":     letter,
	})
	m, err := Courier(dir)
	wantMap(t, m, err, []ledger.Known{
		{UIDL: "1.it+27s+2Bme", Size: 25, Header: headerOf(t, letter), HasHeader: true, Received: received},
	}, Skip{`"2.gone"`, "nothing is known of its message"})
	for name, text := range map[string]string{
		"later":      "/4 1 1\n",
		"one field":  "name\n",
		"four":       "name 1 1 1\n",
		"no size":    "name x\n",
		"bad number": "name 1 x:1\n",
	} {
		if m, err := Courier(tree(t, map[string]string{"courierpop3dsizelist": text})); err == nil {
			t.Errorf("%s: read as %+v, want an error", name, m)
		}
	}
	if _, err := Courier(t.TempDir()); err == nil || !strings.Contains(err.Error(), "first login") {
		t.Errorf("without the file: %v, want a hint", err)
	}
}

// cyrusIndex is the beginning of an index of that version.
func cyrusIndex(version, validity uint32, at int) string {
	header := make([]byte, 160)
	binary.BigEndian.PutUint32(header[8:], version)
	binary.BigEndian.PutUint32(header[at:], validity)
	return string(header)
}

func TestCyrus(t *testing.T) {
	wire := strings.ReplaceAll(letter, "\n", "\r\n")
	want := []ledger.Known{
		{UIDL: "1234567890-2", Name: "1234567890.2", Size: 25, Header: headerOf(t, letter), HasHeader: true, Received: received},
		{UIDL: "1234567890-10", Name: "1234567890.10", Size: 25, Header: headerOf(t, letter), HasHeader: true, Received: received},
	}
	for _, index := range []string{cyrusIndex(10, 1234567890, 44), cyrusIndex(17, 1234567890, 44), cyrusIndex(20, 1234567890, 92)} {
		dir := tree(t, map[string]string{"cyrus.index": index, "cyrus.header": "", "10.": wire, "2.": wire, "0.": "", "x.": "", "3": ""})
		m, err := Cyrus(dir, func(validity, uid uint32) string { return fmt.Sprintf("%d-%d", validity, uid) }, named)
		wantMap(t, m, err, want)
	}
	for name, index := range map[string]string{
		"short":          "cyrus",
		"old":            cyrusIndex(4, 1, 44),
		"new":            cyrusIndex(21, 1, 92),
		"no UIDVALIDITY": cyrusIndex(17, 0, 44),
	} {
		if m, err := Cyrus(tree(t, map[string]string{"cyrus.index": index}), func(_, _ uint32) string { return "" }, named); err == nil {
			t.Errorf("%s: read as %+v, want an error", name, m)
		}
	}
}

func TestCSV(t *testing.T) {
	m, err := CSV(strings.NewReader("\ufeffUIDL, size,received,uidvalidity,uid,emailid,gmail_msgid\n"+
		"a,10,2026-03-01T08:00:00Z,,,,\n"+
		"b,,,17,4,,\n"+
		"c,,,,,M12,\n"+
		"d,,,,,,1278455344230334865\n"+
		"e,10,,,,,\n"+
		"a,10,2026-03-01T08:00:00Z,,,,\n"), func(validity, uid uint32) string { return fmt.Sprintf("%d.%d", validity, uid) })
	wantMap(t, m, err, []ledger.Known{
		{UIDL: "a", Size: 10, Received: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)},
		{UIDL: "b", Name: "17.4"},
		{UIDL: "c", Identity: "objectid:M12"},
		{UIDL: "d", Identity: "gmail:1278455344230334865"},
	}, Skip{`"e"`, "nothing is known of its message"}, Skip{`"a"`, "another message has this unique-id, too"})
	for name, text := range map[string]string{
		"empty":          "",
		"no uidl":        "size\n1\n",
		"unknown column": "uidl,colour\na,red\n",
		"column twice":   "uidl,uidl\na,a\n",
		"too few":        "uidl,size\na\n",
		"bad size":       "uidl,size\na,-1\n",
		"bad date":       "uidl,received\na,yesterday\n",
		"bad uid":        "uidl,uidvalidity,uid\na,1,x\n",
		"no uidvalidity": "uidl,uid\na,1\n",
		"bad quotes":     "uidl\n\"a\n",
	} {
		if m, err := CSV(strings.NewReader(text), func(_, _ uint32) string { return "n" }); err == nil {
			t.Errorf("%s: read as %+v, want an error", name, m)
		}
	}
}

// TestPackedMessages: what cannot be read is not taken for a header.
func TestPackedMessages(t *testing.T) {
	for _, begin := range append(packed, "\x1f\x8b\x08broken") {
		dir := tree(t, map[string]string{"courierpop3dsizelist": "a 25 1:2:0\n", "cur/a": begin + letter})
		m, err := Courier(dir)
		wantMap(t, m, err, nil, Skip{`"UID1-2"`, "nothing is known of its message"})
	}
}
