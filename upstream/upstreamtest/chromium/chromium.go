// Package chromium opens pages in a real browser, without a window, for tests of
// what people do in one. It asks nobody but this machine.
package chromium

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"postern/upstream/upstreamtest/private"
)

// patience is for all that a test does in the browser.
const patience = time.Minute

// Start returns a tab of a browser with a profile of its own, for chromedp.Run.
// Both end with t. Without Chromium on the machine the test is skipped, or fails
// where POSTERN_REAL is 1.
func Start(t testing.TB, options ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	path := find(t)
	all := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(profile(t)),
		chromedp.NoSandbox, // which root cannot have
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1"),
	)
	browser, end := chromedp.NewExecAllocator(context.Background(), append(all, options...)...)
	t.Cleanup(end)
	tab, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	bounded, cancel := context.WithTimeout(tab, patience)
	t.Cleanup(cancel)
	return bounded
}

// profile returns a directory that ends with t. A browser's helpers outlive it by a
// moment, and write there until they notice, which t.TempDir takes for a failure.
func profile(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := os.RemoveAll(dir)
		for end := time.Now().Add(patience); err != nil && time.Now().Before(end); err = os.RemoveAll(dir) {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return dir
}

func find(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	private.Missing(t, "no Chromium here: apt-get install chromium, or make test")
	return ""
}
