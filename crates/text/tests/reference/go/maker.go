package main

import (
	"fmt"
	"math/rand"
	"strings"
)

// maker makes templates up: most of them run, some fail in one of the many ways there are.
type maker struct {
	*rand.Rand
}

func (m maker) one(of ...string) string { return of[m.Intn(len(of))] }

var texts = []string{"a", " b ", "\n", "  \n  ", "<|x|>", "é", "{", "}", "\t", "%", "\\n", "'", "&"}

var paths = []string{
	".System", ".Messages", ".Tools", ".Think", ".ThinkLevel", ".IsThinkSet", ".Data", ".Missing", ".Data.missing",
	".Data.text", ".Data.number", ".Data.float", ".Data.big", ".Data.yes", ".Data.no", ".Data.nothing", ".Data.list",
	".Data.map", ".Data.map.b", ".Data.deep.x.y", ".Data.empty", ".Data.none", "$.Messages", "$.Data.float",
	".Data.html", ".Data.unicode", ".Data.map.zz", "$", "$.System", "$.Data.list", "$.Data.map",
}

var inner = []string{".Role", ".Content", ".Thinking", ".ToolCalls", ".Images", ".Nope", ".Function", ".", "$.System"}

func (m maker) literal() string {
	return m.one("1", "0", "-3", "2.5", "1e3", "0x1F", "'a'", "'\\n'", `"text"`, "`raw`", `""`, "true", "false",
		`"é\t\""`, "1i", "1+2i", "0b101", "1_000", `"%v|%s"`, `"x"`)
}

func (m maker) value(depth int) string {
	if m.Intn(40) == 0 {
		return "nil"
	}
	if m.Intn(40) == 0 {
		return m.one(".", ".Data.text.x", ".Missing.More", ".Nope.More")
	}
	switch m.Intn(6) {
	case 0, 1:
		return m.literal()
	case 2:
		if depth > 0 {
			return "(" + m.pipe(depth-1) + ")"
		}
	case 3:
		return m.one("$v", "$w")
	}
	return paths[m.Intn(len(paths))]
}

func (m maker) verb() string {
	flags := m.one("", "", "", "-", "+", "#", "0", " ", "+0", "-0")
	width := m.one("", "", "5", "10", "1")
	precision := m.one("", "", ".2", ".0", ".10")
	return "%" + flags + width + precision + m.one("v", "s", "d", "q", "t", "x", "X", "f", "e", "g", "T", "c", "U", "b", "o", "G", "E", "z", "%")
}

func (m maker) command(depth int) string {
	v := func() string { return m.value(depth) }
	switch m.Intn(22) {
	case 0:
		return "len " + m.one(m.long(), m.long(), m.long(), v())
	case 1:
		return m.one("index .Data.list 0", "index .Data.map \"b\"", "index .Data.text 1", "index "+v()+" "+m.one("0", "1", `"a"`, `"b"`, "9", v()))
	case 2:
		return "slice " + m.one(m.long(), m.long(), v()) + " " + m.one("0 1", "1", "", "1 1", "0 1 2", "2 1", v())
	case 3:
		both := m.one("1 2", "2 2", `"a" "b"`, "1.5 .Data.number", `.System "S"`, "1.5 2.5", v()+" "+v())
		return m.one("eq", "ne", "lt", "le", "gt", "ge") + " " + both
	case 4:
		return "eq " + m.one(`.ThinkLevel "high" "low"`, "1 2 3", v()+" "+v()+" "+v())
	case 5:
		return m.one("and", "or") + " " + v() + " " + v()
	case 6:
		return "not " + v()
	case 7, 8:
		return m.one("print", "println", "html", "js", "urlquery") + " " + v() + " " + m.one("", v())
	case 9, 10, 11:
		return fmt.Sprintf("printf \"%s %s\" %s %s", m.verb(), m.verb(), v(), m.one("", v(), v()))
	case 12:
		return "json " + v()
	case 13:
		return "toTypeScriptType " + v()
	case 14:
		return m.one("call", "nofunc", "len", "print", "print", "print", "print", "print") + " " + v()
	}
	return v()
}

func (m maker) pipe(depth int) string {
	pipe := m.command(depth)
	for m.Intn(4) == 0 {
		pipe += m.one(" | ", "|") + m.one("print", "not", "json", "html", "printf \"%v\"", "printf \"%q\"", "eq 1", "or 0", "and 1", "println", "print | len")
	}
	return pipe
}

func (m maker) action(inside string) string {
	return m.one("{{", "{{ ", "{{- ", "{{-\n ") + inside + m.one("}}", " }}", " -}}", "\n-}}")
}

// Most pipes run: lengths are asked of what has one.
func (m maker) long() string {
	return m.one(".System", ".Messages", ".Tools", ".Data.list", ".Data.map", ".Data.text", "$.Data.unicode", `"text"`)
}

func (m maker) body(depth int, in bool) string {
	var out strings.Builder
	for range m.Intn(3) + 1 {
		out.WriteString(m.node(depth, in))
	}
	return out.String()
}

func (m maker) node(depth int, in bool) string {
	if depth == 0 {
		return m.one(texts[m.Intn(len(texts))], m.action(m.pipe(1)))
	}
	otherwise := ""
	if m.Intn(3) == 0 {
		otherwise = m.action("else") + m.body(depth-1, in)
	}
	switch m.Intn(14) {
	case 0, 1:
		return m.action("if "+m.pipe(1)) + m.body(depth-1, in) + otherwise + m.action("end")
	case 2:
		chain := m.action("else if " + m.pipe(1))
		return m.action("if "+m.pipe(1)) + m.body(depth-1, in) + chain + m.body(depth-1, in) + otherwise + m.action("end")
	case 3:
		return m.action("with "+m.one("", "$w := ")+m.pipe(1)) + m.body(depth-1, in) + otherwise + m.action("end")
	case 4:
		over := m.one("3", ".Data.list", ".Data.map", ".Data.empty", "$.Data.list", ".Missing", m.pipe(1))
		return m.action("range "+m.one("", "$v := ", "$v, $w := ", "$v = ")+over) + m.body(depth-1, true) + otherwise + m.action("end")
	case 5:
		field := inner[m.Intn(len(inner))]
		return m.action("range "+m.one(".Messages", "$.Messages", "$.Tools")) + m.action(field) + m.one("", ",") + m.action("end")
	case 6:
		return m.action(m.one("$v := ", "$w := ", "$v = ", "$w = ") + m.pipe(1))
	case 7:
		if in {
			return m.action("if "+m.pipe(1)) + m.action(m.one("break", "continue")) + m.action("end")
		}
		return m.one("{{/* a comment */}}", "{{- /* another */ -}}")
	case 8:
		return m.action("template \"t\" " + m.one("", ".", m.value(1)))
	case 9, 10:
		return m.action(m.pipe(2))
	}
	return texts[m.Intn(len(texts))]
}

func (m maker) template() string {
	source := m.body(3, false)
	if m.Intn(20) > 0 {
		source = m.action("$v := "+m.literal()) + m.action("$w := "+paths[m.Intn(len(paths))]) + source
	}
	if strings.Contains(source, "template \"t\"") && m.Intn(5) > 0 {
		source += m.action("define \"t\"") + m.body(1, false) + m.action("end")
	}
	if m.Intn(12) == 0 {
		at := m.Intn(len(source) + 1)
		switch m.Intn(3) {
		case 0:
			source = source[:at]
		case 1:
			source = source[:at] + m.one("{{", "}}", "(", ")", "|", "\"", "$", ".", ":=", "end", "é", "!", "'") + source[at:]
		case 2:
			source = source[:at] + source[min(at+1, len(source)):]
		}
	}
	return strings.ToValidUTF8(source, "")
}
