// Builds the etcd server: its own go.mod has replace lines, so `go install` refuses to build it by name.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
