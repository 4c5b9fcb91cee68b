package load

import (
	"fmt"
	"slices"
	"time"
)

// A Result is what one run of a scenario came to. What a scenario does not
// measure is zero, and left out of JSON.
type Result struct {
	Scenario string  `json:"scenario"`
	Seconds  float64 `json:"seconds"`          // the whole run
	Phases   []Phase `json:"phases,omitempty"` // its parts, in order
	Sessions int     `json:"sessions,omitempty"`
	Messages int     `json:"messages,omitempty"`
	Octets   int64   `json:"octets,omitempty"` // of messages, as LIST counts them
	// Digest is the sum of the checksums (CRC-32C) of all messages received,
	// so it is the same for the same messages in any order.
	Digest     uint64      `json:"digest,omitempty"`
	FirstOctet *Spread     `json:"first_octet,omitempty"` // from RETR to the first octet of the message
	Session    *Spread     `json:"session,omitempty"`     // from connecting to the answer to QUIT
	Memory     *MemoryCost `json:"memory,omitempty"`
}

// A Phase is a part of a run.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// A Spread is how a time was distributed, in milliseconds.
type Spread struct {
	Median float64 `json:"median_ms"`
	P90    float64 `json:"p90_ms"`
	Max    float64 `json:"max_ms"`
}

// MemoryCost is the memory of a server's processes, in octets (PSS).
type MemoryCost struct {
	Before     int64 `json:"before"`
	After      int64 `json:"after"`
	PerSession int64 `json:"per_session"`
}

// Phase returns how long the phase of that name took, in seconds.
func (r Result) Phase(name string) float64 {
	for _, p := range r.Phases {
		if p.Name == name {
			return p.Seconds
		}
	}
	return 0
}

// MessageRate is messages a second in the phase that carries them.
func (r Result) MessageRate() float64 { return float64(r.Messages) / r.Phase("messages") }

// OctetRate is message octets a second in the phase that carries them.
func (r Result) OctetRate() float64 { return float64(r.Octets) / r.Phase("messages") }

// SessionRate is sessions a second.
func (r Result) SessionRate() float64 { return float64(r.Sessions) / r.Seconds }

func spread(times []time.Duration) *Spread {
	if len(times) == 0 {
		return nil
	}
	slices.Sort(times)
	at := func(part float64) float64 {
		return float64(times[int(part*float64(len(times)-1))].Microseconds()) / 1000
	}
	return &Spread{at(0.5), at(0.9), at(1)}
}

func (s Spread) String() string {
	return fmt.Sprintf("median %.1f ms, 90 %% %.1f ms, max %.1f ms", s.Median, s.P90, s.Max)
}

// A watch measures the phases of a run.
type watch struct {
	begin, last time.Time
	phases      []Phase
}

func startWatch() *watch {
	now := time.Now()
	return &watch{begin: now, last: now}
}

// lap ends a phase.
func (w *watch) lap(name string) {
	now := time.Now()
	w.phases = append(w.phases, Phase{name, now.Sub(w.last).Seconds()})
	w.last = now
}

func (w *watch) stop(r *Result) {
	r.Phases = w.phases
	r.Seconds = time.Since(w.begin).Seconds()
}
