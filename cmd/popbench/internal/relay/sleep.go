package relay

import "time"

// A sleeper waits until a time.
type sleeper interface {
	sleep(until time.Time)
	close()
}

type plainSleeper struct{}

func (plainSleeper) sleep(until time.Time) { time.Sleep(time.Until(until)) }
func (plainSleeper) close()                {}
