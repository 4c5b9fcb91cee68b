package relay

import "time"

type plainSleeper struct{}

func (plainSleeper) sleep(until time.Time) { time.Sleep(time.Until(until)) }
func (plainSleeper) close()                {}
