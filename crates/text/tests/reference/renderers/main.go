// Prompts of Ollama's built-in renderers, for our tests. It belongs into a checkout of Ollama (see make.py):
// conversations come in as lines of JSON in the shape of chat requests, for each a line with the prompts goes out.
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/model/renderers"
)

type answer struct {
	Prompt string `json:"prompt,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	renderers.RenderImgTags = true
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<28)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for lines.Scan() {
		var request api.ChatRequest
		if err := json.Unmarshal(lines.Bytes(), &request); err != nil {
			panic(err)
		}
		answers := map[string]answer{}
		for _, name := range os.Args[1:] {
			prompt, err := renderers.RenderWithRenderer(name, request.Messages, request.Tools, request.Think)
			if err != nil {
				answers[name] = answer{Error: err.Error()}
			} else {
				answers[name] = answer{Prompt: prompt}
			}
		}
		if err := encoder.Encode(answers); err != nil {
			panic(err)
		}
	}
}
