package relay

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// newSleeper returns one that uses a timerfd, which is some 50 microseconds
// late. time.Sleep can be a millisecond late, since the runtime's poller counts
// whole ones, and at 10 ms that is a tenth.
func newSleeper() sleeper {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return plainSleeper{}
	}
	return &timer{fd, os.NewFile(uintptr(fd), "timerfd")}
}

type timer struct {
	fd   int
	file *os.File
}

func (t *timer) sleep(until time.Time) {
	d := time.Until(until)
	if d <= 0 {
		return
	}
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if unix.TimerfdSettime(t.fd, 0, &once, nil) != nil {
		time.Sleep(d)
		return
	}
	var expirations [8]byte
	t.file.Read(expirations[:])
}

func (t *timer) close() { t.file.Close() }
