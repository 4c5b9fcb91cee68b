//go:build race

package main

// raced tells that the race detector is on, which makes everything take five
// times as long.
const raced = true
