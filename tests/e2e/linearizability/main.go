// The known checker, Porcupine, on histories as ../linearizable.py describes them:
//
//	linearizability HTML-DIRECTORY HISTORY...
//
// prints a line "OBJECT Ok|Illegal|Unknown" for each object, and makes a picture of each that is not Ok, to be opened in a
// browser. Exit code 1 if there is one.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	keysMax = 8                // of an object
	timeout = 10 * time.Second // a good history takes milliseconds
)

type operation struct {
	Object string             `json:"object"`
	Client int                `json:"client"`
	Kind   string             `json:"kind"`
	Call   int64              `json:"call"`
	Return *int64             `json:"return"`
	Is     map[string]*string `json:"is"`
	Not    map[string]*string `json:"not"`
	Set    map[string]*string `json:"set"`
}

// Values by number, 0 is absent: so that states can be compared.
type state [keysMax]int32

type pair struct {
	key   int
	value int32
}

type input struct {
	is, not, set []pair
	open         bool
	words        string
}

func (in input) holds(s state) bool {
	for _, p := range in.is {
		if s[p.key] != p.value {
			return false
		}
	}
	for _, p := range in.not {
		if s[p.key] == p.value {
			return false
		}
	}
	return true
}

// Of an operation without an answer nobody knows whether it was applied. Porcupine wants every operation to have a place:
// behind all others it changes nothing that was seen, and where it can't stand it has not been applied.
func step(st, in, _ interface{}) (bool, interface{}) {
	s, i := st.(state), in.(input)
	if !i.holds(s) {
		return i.open, s
	}
	for _, p := range i.set {
		s[p.key] = p.value
	}
	return true, s
}

// Numbers for the keys and values of one object.
type names struct {
	keys   map[string]int
	values map[string]int32
	words  []string
}

func (n *names) pairs(m map[string]*string) []pair {
	var out []pair
	for key, value := range m {
		k, ok := n.keys[key]
		if !ok {
			k = len(n.keys)
			if k == keysMax {
				fail("an object has more than %d keys", keysMax)
			}
			n.keys[key] = k
		}
		var v int32
		if value != nil {
			if v, ok = n.values[*value]; !ok {
				v = int32(len(n.words))
				n.values[*value] = v
				n.words = append(n.words, *value)
			}
		}
		out = append(out, pair{k, v})
	}
	return out
}

func words(m map[string]*string, between string) string {
	var out []string
	for key, value := range m {
		v := "-"
		if value != nil {
			v = *value
		}
		out = append(out, key+between+v)
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func check(object string, ops []operation, directory string) bool {
	n := names{map[string]int{}, map[string]int32{}, []string{"-"}}
	clients := map[int]int{}
	var history []porcupine.Operation
	for _, op := range ops {
		client, ok := clients[op.Client]
		if !ok {
			client = len(clients)
			clients[op.Client] = client
		}
		in := input{n.pairs(op.Is), n.pairs(op.Not), n.pairs(op.Set), op.Return == nil,
			strings.TrimSpace(op.Kind + " " + words(op.Is, "=") + " " + words(op.Not, "≠") + " " + words(op.Set, "←"))}
		end := int64(math.MaxInt64)
		if op.Return != nil {
			end = *op.Return
		}
		history = append(history, porcupine.Operation{ClientId: client, Input: in, Call: op.Call, Return: end})
	}
	model := porcupine.Model{
		Init:              func() interface{} { return state{} },
		Step:              step,
		DescribeOperation: func(in, _ interface{}) string { return in.(input).words },
		DescribeState: func(st interface{}) string {
			var out []string
			for key, k := range n.keys {
				out = append(out, key+"="+n.words[st.(state)[k]])
			}
			sort.Strings(out)
			return strings.Join(out, " ")
		},
	}
	result, info := porcupine.CheckOperationsVerbose(model, history, timeout)
	picture := ""
	if result != porcupine.Ok && directory != "-" {
		picture = filepath.Join(directory, strings.ReplaceAll(object, "/", "-")+".html")
		if err := porcupine.VisualizePath(model, info, picture); err != nil {
			fail("%v", err)
		}
	}
	fmt.Println(strings.TrimSpace(fmt.Sprintf("%s %s %s", object, result, picture)))
	return result == porcupine.Ok
}

func fail(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, "linearizability: "+format+"\n", args...)
	os.Exit(2)
}

func main() {
	if len(os.Args) < 3 {
		fail("usage: linearizability HTML-DIRECTORY|- HISTORY...")
	}
	objects := map[string][]operation{}
	for _, path := range os.Args[2:] {
		file, err := os.Open(path)
		if err != nil {
			fail("%v", err)
		}
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var op operation
			if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
				fail("%s: %v", path, err)
			}
			objects[op.Object] = append(objects[op.Object], op)
		}
		if err := lines.Err(); err != nil {
			fail("%s: %v", path, err)
		}
		file.Close()
	}
	var order []string
	for object := range objects {
		order = append(order, object)
	}
	sort.Strings(order)
	good := true
	for _, object := range order {
		good = check(object, objects[object], os.Args[1]) && good
	}
	if !good {
		os.Exit(1)
	}
}
