//go:build !unix

package main

import (
	"io/fs"
	"os"
)

func keepOwner(*os.File, fs.FileInfo) error { return nil }

func shareWithGroup(*os.File, fs.FileInfo) error { return nil }

func checkOwner(string) error { return nil }
