// Runs Ollama's own parsers over the cases of cases.py, one JSON object per line, and adds what came out of them.
// It is built inside a checkout of Ollama: see the head of cases.py.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"text/template"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/model/parsers"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/tools"
)

type call struct {
	Name      string          `json:"name"`
	ID        string          `json:"id,omitempty"`
	Arguments json.RawMessage `json:"arguments"`
}

type fold struct {
	Content  string `json:"content,omitempty"`
	Thinking string `json:"thinking,omitempty"`
	Calls    []call `json:"calls,omitempty"`
	Error    string `json:"error,omitempty"`
}

type message struct {
	Role     string `json:"role"`
	Content  string `json:"content"`
	Thinking string `json:"thinking,omitempty"`
}

type line struct {
	Tools    json.RawMessage `json:"tools,omitempty"`
	Parser   string          `json:"parser,omitempty"`
	Template string          `json:"template,omitempty"`
	Prompt   string          `json:"prompt,omitempty"`
	Bare     bool            `json:"bare,omitempty"`
	Think    *bool           `json:"think,omitempty"`
	Last     *message        `json:"last,omitempty"`
	Kind     string          `json:"kind,omitempty"`
	Text     string          `json:"text,omitempty"`
	Tags     []string        `json:"tags,omitempty"`
	Folds    []fold          `json:"folds,omitempty"`
}

type adder func(s string, done bool) (string, string, []api.ToolCall, error)

func (f *fold) add(content, thinking string, calls []api.ToolCall, err error) bool {
	if err != nil {
		f.Error = err.Error()
		return false
	}
	f.Content += content
	f.Thinking += thinking
	for _, c := range calls {
		arguments, _ := json.Marshal(c.Function.Arguments)
		f.Calls = append(f.Calls, call{c.Function.Name, c.ID, arguments})
	}
	return true
}

func run(pieces []string, tail bool, add adder) (f fold) {
	defer func() {
		if r := recover(); r != nil {
			f.Error = "panic"
		}
	}()
	for i, piece := range pieces {
		if !f.add(add(piece, !tail && i == len(pieces)-1)) {
			return f
		}
	}
	if tail {
		f.add(add("", true))
	}
	return f
}

func named(l line, declared []api.Tool) adder {
	p := parsers.ParserForName(l.Parser)
	var think *api.ThinkValue
	if l.Think != nil {
		think = &api.ThinkValue{Value: *l.Think}
	}
	var last *api.Message
	if l.Last != nil {
		last = &api.Message{Role: l.Last.Role, Content: l.Last.Content, Thinking: l.Last.Thinking}
	} else {
		last = &api.Message{Role: "user", Content: "x"}
	}
	p.Init(declared, last, think)
	return p.Add
}

func parsed(source string) *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{"json": func(any) string { return "" }}).Parse(source))
}

func generic(l line, declared []api.Tool) adder {
	t := parsed(l.Template)
	var thoughts *thinking.Parser
	open, close := thinking.InferTags(t)
	if l.Think != nil && *l.Think && open != "" && close != "" {
		thoughts = &thinking.Parser{OpeningTag: open, ClosingTag: close}
		if strings.HasSuffix(strings.TrimSpace(l.Prompt), open) {
			thoughts.AddContent(open)
		}
	}
	var calls *tools.Parser
	if len(declared) > 0 {
		calls = tools.NewParser(t, declared)
	}
	return func(s string, done bool) (string, string, []api.ToolCall, error) {
		thought, content := "", s
		if thoughts != nil {
			thought, content = thoughts.AddContent(s)
		}
		var found []api.ToolCall
		if calls != nil {
			found, content = calls.Add(content)
			if done {
				content += calls.Content()
			}
		}
		return content, thought, found, nil
	}
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	decoder := json.NewDecoder(in)
	var declared []api.Tool
	for decoder.More() {
		var l line
		if err := decoder.Decode(&l); err != nil {
			panic(err)
		}
		if l.Tools != nil {
			if err := json.Unmarshal(l.Tools, &declared); err != nil {
				panic(err)
			}
			out.Encode(l)
			continue
		}
		given := declared
		if l.Bare {
			given = nil
		}
		start := func() adder {
			if l.Template != "" {
				return generic(l, given)
			}
			return named(l, given)
		}
		if l.Template != "" {
			t := parsed(l.Template)
			open, close := thinking.InferTags(t)
			l.Tags = []string{open, close, tools.NewParser(t, nil).Tag()}
		}
		letters := strings.Split(l.Text, "")
		folds := []fold{
			run([]string{l.Text}, true, start()),
			run(letters, true, start()),
			run([]string{l.Text}, false, start()),
		}
		seen := map[string]bool{}
		for _, f := range folds {
			text, _ := json.Marshal(f)
			if !seen[string(text)] {
				seen[string(text)] = true
				l.Folds = append(l.Folds, f)
			}
		}
		out.Encode(l)
	}
}
