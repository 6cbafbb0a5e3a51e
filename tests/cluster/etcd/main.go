// Command etcd is etcd's server: its own module cannot be installed by version, since it replaces its parts by folders.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
