// Command reference writes the goldens of Go templates into testdata/text/templates: what Go's own engine makes of
// our templates.
//
//	cd crates/text/tests/reference/go && go run . ../../../../../testdata/text/templates
//
// With templates from anywhere, beside each of FOLDER/*.tmpl:
//
//	go run . -only FOLDER
//	OLLMLX_TEMPLATES=FOLDER cargo test -p text --lib -- --ignored templates_from_anywhere
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"reference/template"
)

type golden struct {
	Template string `json:"template"`
	Text     string `json:"text,omitempty"`
	Error    string `json:"error,omitempty"`
}

func read(path string, into any) {
	text, err := os.ReadFile(path)
	check(err)
	check(json.Unmarshal(text, into))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func line(v any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	check(encoder.Encode(v))
	return strings.TrimSpace(out.String())
}

func write(path string, lines []string) {
	check(os.WriteFile(path, []byte("[\n"+strings.Join(lines, ",\n")+"\n]\n"), 0o644))
}

func made(source, text string, err error) golden {
	if err != nil {
		return golden{Template: source, Error: err.Error()}
	}
	return golden{Template: source, Text: text}
}

// odd tells what no other engine can say: addresses differ in every run, and our limits are lower.
func odd(first, second golden) bool {
	all := first.Text + first.Error
	limit := strings.Contains(all, "exceeded maximum template depth")
	return first != second || limit || strings.Contains(all, "iter.Seq2") || len(all) > 4000
}

func engine(folder string) {
	var input struct {
		Conversation template.Conversation `json:"conversation"`
		Data         any                   `json:"data"`
		Templates    []string              `json:"templates"`
	}
	read(filepath.Join(folder, "engine-cases.json"), &input)
	templates := append([]string{}, input.Templates...)
	random := maker{rand.New(rand.NewSource(20260307))}
	for len(templates) < len(input.Templates)+1500 {
		templates = append(templates, random.template())
	}
	seen := map[string]bool{}
	var lines []string
	errors := 0
	for _, source := range templates {
		text, err := template.Engine(source, input.Conversation, input.Data)
		g := made(source, text, err)
		text, err = template.Engine(source, input.Conversation, input.Data)
		if seen[source] || odd(g, made(source, text, err)) {
			continue
		}
		seen[source] = true
		if err != nil {
			errors++
		}
		lines = append(lines, line(g))
	}
	write(filepath.Join(folder, "engine.json"), lines)
	fmt.Printf("engine: %d templates, %d of them errors, %s\n", len(lines), errors, runtime.Version())
}

// modelfiles runs all TEMPLATEs of a folder over all conversations.
func modelfiles(folder, result string) {
	conversations := map[string]template.Conversation{}
	read("../conversations.json", &conversations)
	conversations["infill"] = template.Conversation{Prompt: "def f(x):\n", Suffix: "\n<end>"}
	var names []string
	for name := range conversations {
		names = append(names, name)
	}
	sort.Strings(names)
	paths, err := filepath.Glob(filepath.Join(folder, "*.tmpl"))
	check(err)
	var lines []string
	for _, path := range paths {
		source, err := os.ReadFile(path)
		check(err)
		for _, name := range names {
			text, err := template.Render(string(source), conversations[name])
			g := made(filepath.Base(path)+": "+name, text, err)
			lines = append(lines, line(g))
		}
	}
	write(result, lines)
	fmt.Printf("modelfile: %d templates, %d conversations\n", len(paths), len(names))
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "-only" {
		modelfiles(os.Args[2], filepath.Join(os.Args[2], "modelfile.json"))
		return
	}
	folder := os.Args[1]
	engine(folder)
	modelfiles(filepath.Join(folder, "modelfile"), filepath.Join(folder, "modelfile.json"))
	modelfiles("../../../src/template/named", filepath.Join(folder, "named.json"))
}
