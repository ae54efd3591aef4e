// Package template restates how Ollama runs a TEMPLATE, on Go's own engine.
package template

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"reference/api"
)

// Conversation is what the goldens' conversations hold.
type Conversation struct {
	Messages []Message `json:"messages"`
	Tools    []Tool    `json:"tools"`
	Think    any       `json:"think"`
	Prompt   string    `json:"prompt"`
	Suffix   string    `json:"suffix"`
}

type Message struct {
	Role       any     `json:"role"`
	Content    string  `json:"content"`
	Thinking   string  `json:"thinking"`
	Images     []Image `json:"images"`
	ToolCalls  []Call  `json:"tool_calls"`
	ToolName   string  `json:"tool_name"`
	ToolCallID string  `json:"tool_call_id"`
}

type Image struct {
	Base64 api.ImageData `json:"base64"`
}

type Call struct {
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

type Tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string                      `json:"type"`
			Defs       any                         `json:"$defs"`
			Items      any                         `json:"items"`
			Required   []string                    `json:"required"`
			Properties map[string]api.ToolProperty `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

type templateMessage struct {
	Role       string
	Content    string
	Thinking   string
	Images     []api.ImageData
	ToolCalls  []templateToolCall
	ToolName   string
	ToolCallID string
}

type templateToolCall struct {
	ID       string
	Function templateToolCallFunction
}

type templateToolCallFunction struct {
	Index     int
	Name      string
	Arguments templateArgs
}

type templateArgs map[string]any

func (a templateArgs) String() string { return orEmpty(a == nil, a) }

type templateProperties map[string]api.ToolProperty

func (p templateProperties) String() string { return orEmpty(p == nil, p) }

type templateTools []templateTool

func (t templateTools) String() string { return toJSON(t) }

type templateTool struct {
	Type     string               `json:"type"`
	Items    any                  `json:"items,omitempty"`
	Function templateToolFunction `json:"function"`
}

func (t templateTool) String() string { return toJSON(t) }

type templateToolFunction struct {
	Name        string                         `json:"name"`
	Description string                         `json:"description"`
	Parameters  templateToolFunctionParameters `json:"parameters"`
}

type templateToolFunctionParameters struct {
	Type       string             `json:"type"`
	Defs       any                `json:"$defs,omitempty"`
	Items      any                `json:"items,omitempty"`
	Required   []string           `json:"required,omitempty"`
	Properties templateProperties `json:"properties"`
}

func toJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

func orEmpty(empty bool, v any) string {
	if empty {
		return "{}"
	}
	return toJSON(v)
}

var funcs = template.FuncMap{
	"json":          toJSON,
	"currentDate":   func(...string) string { return "today" },
	"yesterdayDate": func(...string) string { return "yesterday" },
	"toTypeScriptType": func(v any) string {
		switch property := v.(type) {
		case api.ToolProperty:
			return property.ToTypeScriptType()
		case *api.ToolProperty:
			return property.ToTypeScriptType()
		}
		return "any"
	},
}

func role(message Message) string {
	if other, ok := message.Role.(map[string]any); ok {
		return fmt.Sprint(other["other"])
	}
	return fmt.Sprint(message.Role)
}

// Collate joins neighbours of one role and puts the tags of pictures.
func collate(messages []Message) (string, []*templateMessage) {
	var system []string
	var all []*templateMessage
	images := 0
	for _, message := range messages {
		content, before := message.Content, ""
		if role(message) == "system" {
			system = append(system, content)
		}
		var files []api.ImageData
		for _, image := range message.Images {
			tag := fmt.Sprintf("[img-%d]", images)
			images++
			files = append(files, image.Base64)
			if strings.Contains(content, "[img]") {
				content = strings.Replace(content, "[img]", tag, 1)
			} else {
				before += tag
			}
		}
		content = before + content
		if n := len(all); n > 0 && all[n-1].Role == role(message) && role(message) != "tool" {
			all[n-1].Content += "\n\n" + content
			continue
		}
		ours := &templateMessage{
			Role: role(message), Content: content, Thinking: message.Thinking, Images: files,
			ToolName: message.ToolName, ToolCallID: message.ToolCallID,
		}
		for i, call := range message.ToolCalls {
			function := templateToolCallFunction{i, call.Name, templateArgs(call.Arguments)}
			ours.ToolCalls = append(ours.ToolCalls, templateToolCall{call.ID, function})
		}
		all = append(all, ours)
	}
	return strings.Join(system, "\n\n"), all
}

func convertTools(tools []Tool) templateTools {
	if len(tools) == 0 {
		return nil
	}
	all := make(templateTools, len(tools))
	for i, tool := range tools {
		p := tool.Function.Parameters
		all[i] = templateTool{Type: tool.Type, Function: templateToolFunction{
			tool.Function.Name, tool.Function.Description,
			templateToolFunctionParameters{p.Type, p.Defs, p.Items, p.Required, p.Properties},
		}}
	}
	return all
}

func (c Conversation) think() (thinks bool, level string, set bool) {
	switch think := c.Think.(type) {
	case string:
		if think == "on" {
			return true, "medium", true
		}
		return false, "", think != "unset"
	case map[string]any:
		return true, fmt.Sprint(think["level"]), true
	}
	return false, "", false
}

func (c Conversation) data(more map[string]any) map[string]any {
	more["Think"], more["ThinkLevel"], more["IsThinkSet"] = c.think()
	return more
}

func names(tmpl *template.Template) map[string]bool {
	all := map[string]bool{}
	var pipe func(*parse.PipeNode)
	pipe = func(p *parse.PipeNode) {
		if p == nil {
			return
		}
		for _, command := range p.Cmds {
			for _, arg := range command.Args {
				switch arg := arg.(type) {
				case *parse.FieldNode:
					for _, name := range arg.Ident {
						all[strings.ToLower(name)] = true
					}
				case *parse.VariableNode:
					for _, name := range arg.Ident {
						all[strings.ToLower(name)] = true
					}
				case *parse.PipeNode:
					pipe(arg)
				}
			}
		}
	}
	var list func(*parse.ListNode)
	branch := func(b *parse.BranchNode) {
		pipe(b.Pipe)
		list(b.List)
		list(b.ElseList)
	}
	list = func(l *parse.ListNode) {
		if l == nil {
			return
		}
		for _, node := range l.Nodes {
			switch node := node.(type) {
			case *parse.ActionNode:
				pipe(node.Pipe)
			case *parse.TemplateNode:
				pipe(node.Pipe)
			case *parse.IfNode:
				branch(&node.BranchNode)
			case *parse.WithNode:
				branch(&node.BranchNode)
			case *parse.RangeNode:
				branch(&node.BranchNode)
			}
		}
	}
	for _, one := range tmpl.Templates() {
		list(one.Root)
	}
	return all
}

// cut removes what stands behind the first .Response and tells whether the node stays.
func cut(node parse.Node, done *bool) bool {
	if *done {
		return false
	}
	switch node := node.(type) {
	case *parse.ListNode:
		if node != nil {
			node.Nodes = slices.DeleteFunc(node.Nodes, func(n parse.Node) bool { return !cut(n, done) })
		}
	case *parse.IfNode:
		cutBranch(&node.BranchNode, done)
	case *parse.WithNode:
		cutBranch(&node.BranchNode, done)
	case *parse.RangeNode:
		cutBranch(&node.BranchNode, done)
	case *parse.ActionNode:
		return cut(node.Pipe, done)
	case *parse.PipeNode:
		for _, command := range node.Cmds {
			command.Args = slices.DeleteFunc(command.Args, func(n parse.Node) bool { return !cut(n, done) })
			if len(command.Args) == 0 {
				return false
			}
		}
	case *parse.FieldNode:
		*done = slices.Contains(node.Ident, "Response")
	}
	return true
}

func cutBranch(branch *parse.BranchNode, done *bool) {
	cut(branch.List, done)
	if branch.ElseList != nil && !cut(branch.ElseList, done) {
		branch.ElseList = nil
	}
}

// Parse is Go's, with the functions that TEMPLATEs have.
func Parse(source string) (*template.Template, error) {
	return template.New("").Option("missingkey=zero").Funcs(funcs).Parse(source)
}

// Engine runs a template over a conversation and more data, without any rules.
func Engine(source string, c Conversation, more any) (string, error) {
	tmpl, err := Parse(source)
	if err != nil {
		return "", err
	}
	system, messages := collate(c.Messages)
	var out strings.Builder
	err = tmpl.Execute(&out, c.data(map[string]any{
		"System": system, "Messages": messages, "Tools": convertTools(c.Tools), "Data": more,
	}))
	return out.String(), err
}

// Render runs a TEMPLATE.
func Render(source string, c Conversation) (string, error) {
	tmpl, err := Parse(source)
	if err != nil {
		return "", err
	}
	known := names(tmpl)
	if !known["messages"] && !known["response"] {
		if tmpl, err = Parse(source + "{{ .Response }}"); err != nil {
			return "", err
		}
	}
	var out strings.Builder
	if c.Prompt != "" && c.Suffix != "" {
		err = tmpl.Execute(&out, c.data(map[string]any{"Prompt": c.Prompt, "Suffix": c.Suffix, "Response": ""}))
		return out.String(), err
	}
	system, messages := collate(c.Messages)
	if known["messages"] {
		err = tmpl.Execute(&out, c.data(map[string]any{
			"System": system, "Messages": messages, "Tools": convertTools(c.Tools), "Response": "",
		}))
		return out.String(), err
	}
	var turn struct{ system, prompt, response string }
	run := func() error {
		data := c.data(map[string]any{"System": turn.system, "Prompt": turn.prompt, "Response": turn.response})
		turn.system, turn.prompt, turn.response = "", "", ""
		return tmpl.Execute(&out, data)
	}
	for _, message := range messages {
		switch message.Role {
		case "system":
			if turn.prompt != "" || turn.response != "" {
				err = run()
			}
			turn.system = message.Content
		case "user":
			if turn.response != "" {
				err = run()
			}
			turn.prompt = message.Content
		case "assistant":
			turn.response = message.Content
		}
		if err != nil {
			return "", err
		}
	}
	done := false
	cut(tmpl.Root, &done)
	err = run()
	return out.String(), err
}
