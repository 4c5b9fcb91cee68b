package migrate

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/proxy/ledger"
)

// columns are those that a CSV file may have. The first line names the ones
// that it does have.
var columns = []string{"uidl", "size", "received", "uidvalidity", "uid", "name", "emailid", "gmail_msgid"}

// CSV reads a table with a line for each message. A message is named by the
// upstream's own name, its EMAILID or X-GM-MSGID, or by UIDVALIDITY and UID
// (then name makes the upstream's name), or known by its size and date.
func CSV(r io.Reader, name Form) (*Map, error) {
	table := csv.NewReader(r)
	table.ReuseRecord = true
	head, err := table.Read()
	if err != nil {
		return nil, fmt.Errorf("the first line, which names the columns: %w", err)
	}
	head = slices.Clone(head)
	for i := range head {
		head[i] = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(head[i], "\ufeff")))
		if !slices.Contains(columns, head[i]) || slices.Contains(head[:i], head[i]) {
			return nil, fmt.Errorf("column %d is %.40q: known are %s, each once", i+1, head[i], strings.Join(columns, ", "))
		}
	}
	if !slices.Contains(head, "uidl") {
		return nil, errors.New("no column is named uidl")
	}
	m, seen := &Map{}, map[string]bool{}
	for {
		row, err := table.Read()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err == nil && len(m.Known)+len(m.Skipped) >= maxMessages {
			err = fmt.Errorf("more than %d messages", maxMessages)
		}
		if err != nil {
			return nil, err
		}
		values := map[string]string{}
		for i, h := range head {
			values[h] = strings.TrimSpace(row[i])
		}
		k, err := csvMessage(values, name)
		if err != nil {
			line, _ := table.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		m.add(k, seen)
	}
}

func csvMessage(values map[string]string, name Form) (ledger.Known, error) {
	k := ledger.Known{UIDL: values["uidl"], Name: values["name"]}
	var err error
	if v := values["size"]; v != "" {
		if k.Size, err = strconv.ParseInt(v, 10, 64); err != nil || k.Size < 0 {
			return k, fmt.Errorf("size %.20q is not a number of octets", v)
		}
	}
	if v := values["received"]; v != "" {
		if k.Received, err = time.Parse(time.RFC3339, v); err != nil {
			return k, fmt.Errorf("received %.40q is not a time such as 2026-03-01T08:00:00Z", v)
		}
	}
	if values["uid"] != "" && k.Name == "" {
		validity, err1 := number32(values["uidvalidity"])
		uid, err2 := number32(values["uid"])
		if err := errors.Join(err1, err2); err != nil {
			return k, fmt.Errorf("uidvalidity and uid: %w", err)
		}
		k.Name = name(validity, uid)
	}
	switch {
	case values["emailid"] != "":
		k.Identity = "objectid:" + values["emailid"]
	case values["gmail_msgid"] != "":
		k.Identity = "gmail:" + values["gmail_msgid"]
	}
	return k, nil
}
