// Package api restates the types of tools that templates get to see.
package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
)

// ImageData is a picture's file.
type ImageData []byte

// PropertyType is one type or several.
type PropertyType []string

func (t *PropertyType) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = PropertyType{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

func (t PropertyType) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t PropertyType) String() string {
	switch len(t) {
	case 0:
		return ""
	case 1:
		return t[0]
	}
	return fmt.Sprint([]string(t))
}

// ToolProperty is what a tool takes under one name.
type ToolProperty struct {
	AnyOf       []ToolProperty     `json:"anyOf,omitempty"`
	Type        PropertyType       `json:"type,omitempty"`
	Items       any                `json:"items,omitempty"`
	Description string             `json:"description,omitempty"`
	Enum        []any              `json:"enum,omitempty"`
	Properties  *ToolPropertiesMap `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
}

var typeScript = map[string]string{
	"string": "string", "number": "number", "integer": "number", "boolean": "boolean",
	"array": "any[]", "object": "Record<string, any>", "null": "null",
}

func (p ToolProperty) ToTypeScriptType() string {
	var names []string
	for _, choice := range p.AnyOf {
		names = append(names, choice.ToTypeScriptType())
	}
	if len(names) == 0 {
		for _, kind := range p.Type {
			name, known := typeScript[kind]
			if !known {
				name = "any"
			}
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "any"
	}
	return strings.Join(names, " | ")
}

// ToolPropertiesMap keeps the order in which properties were written.
type ToolPropertiesMap struct {
	om *ordered
}

type ordered struct {
	keys   []string
	values map[string]ToolProperty
}

func (m *ToolPropertiesMap) UnmarshalJSON(data []byte) error {
	m.om = &ordered{values: map[string]ToolProperty{}}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		var value ToolProperty
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		m.om.keys = append(m.om.keys, key.(string))
		m.om.values[key.(string)] = value
	}
	return nil
}

func (m ToolPropertiesMap) MarshalJSON() ([]byte, error) {
	if m.om == nil {
		return []byte("null"), nil
	}
	var out bytes.Buffer
	out.WriteByte('{')
	for i, key := range m.om.keys {
		if i > 0 {
			out.WriteByte(',')
		}
		name, _ := json.Marshal(key)
		value, err := json.Marshal(m.om.values[key])
		if err != nil {
			return nil, err
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

func (m *ToolPropertiesMap) Len() int {
	if m == nil || m.om == nil {
		return 0
	}
	return len(m.om.keys)
}

func (m *ToolPropertiesMap) ToMap() map[string]ToolProperty {
	if m == nil || m.om == nil {
		return nil
	}
	return m.om.values
}

func (m *ToolPropertiesMap) All() iter.Seq2[string, ToolProperty] {
	return func(yield func(string, ToolProperty) bool) {
		if m == nil || m.om == nil {
			return
		}
		for _, key := range m.om.keys {
			if !yield(key, m.om.values[key]) {
				return
			}
		}
	}
}
