#!/usr/bin/env python3
"""Conversations for the test of the built-in renderers: lines of JSON in the shape of Ollama's chat requests.

    conversations.py [how many] [seed]

Every kind of thing that a renderer looks at turns up: roles, tools with nested schemas, calls and results with and
without ids, thinking, pictures, and texts that look like a family's own marks.
"""
import json
import random
import sys

WORDS = ["sun", "is", "über", "naïve", "天气", "🙂", "a<b", "x&y", '"q"', "back\\slash", "tab\there", "e\u0301", "\u200b",
         "zero\u00a0width", "line\u2028sep", "it's", "{x}", "100%", "\x07", "\ufffd"]
MARKS = ["<think>old</think>new", "</think>rest", "<think>open", "/think", "/no_think", "/nothink", "[img]", "[img] [img]",
         "[img-0]", "<tool_response>x</tool_response>", "<tool_response>x", "x</tool_response>", "\n<tool_response></tool_response> ", "<|channel>thought\nold<channel|>new", "<|channel>lost",
         "<|tool_call_start|>[f()]<|tool_call_end|>", "<|tool_response_start|>x", "Reasoning effort: low",
         "REASONING STRENGTH high", "  padded  ", "\n\nlines\n", "<think>a</think>b</think>c", "\n", " ",
         "You can do function calling with the following functions:", "\ufffd begins"]
NAMES = ["get_weather", "a.b", "a.c", "search", "browser.open", "x-y", "天", "f"]
KEYS = ["city", "unit", "b", "a", "type", "description", "items", "enum", "n<m", "é", "properties", "Z", "nullable"]
TYPES = ["string", "integer", "number", "boolean", "array", "object", "null", "String"]
NUMBERS = [0, 1, -7, 3.5, 1e6, 1234567, 123456, 1e21, 1e-7, 0.00001, 123456789.5, 9007199254740993, -0.25, 1e20, 2**63, -2**63]


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def chance(self, p):
        return self.r.random() < p

    def words(self, most=5):
        return " ".join(self.r.choice(WORDS) for _ in range(self.r.randint(1, most)))

    def text(self):
        kind = self.r.random()
        if kind < 0.1:
            return ""
        if kind < 0.13:
            return "!"
        if kind < 0.35:
            return self.r.choice(MARKS)
        if kind < 0.45:
            return self.words(2) + self.r.choice(MARKS) + self.words(2)
        return self.words()

    def value(self, depth=0):
        kind = self.r.random()
        if kind < 0.35 or depth > 2 and kind < 0.6:
            return self.words(2) if self.chance(0.9) else ""
        if kind < 0.6 or depth > 2:
            return self.r.choice(NUMBERS)
        if kind < 0.7:
            return self.r.choice([True, False])
        if kind < 0.78:
            return None
        if kind < 0.9:
            return [self.value(depth + 1) for _ in range(self.r.randint(0, 2))]
        return self.object(depth + 1)

    def object(self, depth=0, most=3):
        keys = self.r.sample(KEYS, self.r.randint(0, most))
        return {key: self.value(depth) for key in keys}

    def types(self):
        if self.chance(0.2):
            return self.r.sample(TYPES, self.r.randint(1, 3))
        return self.r.choice(TYPES)

    def property(self, depth=0):
        schema = {}
        if self.chance(0.85):
            schema["type"] = self.types()
        elif self.chance(0.8):
            if self.chance(0.7):
                schema["anyOf"] = [{"type": self.types()} for _ in range(self.r.randint(1, 3))]
            else:
                schema["anyOf"] = [self.property(depth + 1)]
        if self.chance(0.6):
            schema["description"] = self.text()
        if self.chance(0.3):
            schema["enum"] = [self.value(2) for _ in range(self.r.randint(0, 3))]
        if schema.get("type") == "array" and self.chance(0.8) or self.chance(0.1):
            schema["items"] = self.item(depth)
        if depth < 2 and (schema.get("type") == "object" and self.chance(0.8) or self.chance(0.08)):
            schema["properties"] = self.properties(depth + 1)
        if self.chance(0.15):
            schema["required"] = self.r.sample(KEYS, self.r.randint(0, 2))
        if self.chance(0.15):
            schema[self.r.choice(["minimum", "default", "pattern", "nullable"])] = self.value(2)
        return self.shuffled(schema)

    def item(self, depth):
        """What Ollama does not look into, hence keeps whole."""
        if self.chance(0.1):
            return self.value()
        schema = self.property(depth + 1)
        for key in ["nullable", "additionalProperties", "minItems"]:
            if self.chance(0.2):
                schema[key] = self.r.choice([True, False, None, 3])
        if self.chance(0.1):
            schema["type"] = self.r.choice([5, None, [], ["string", 1]])
        return self.shuffled(schema)

    def properties(self, depth=0):
        names = self.r.sample(KEYS, self.r.randint(0, 3))
        return {name: self.property(depth) for name in names}

    def shuffled(self, fields):
        items = list(fields.items())
        self.r.shuffle(items)
        return dict(items)

    def tool(self):
        function = {"name": self.r.choice(NAMES) if self.chance(0.97) else ""}
        if self.chance(0.85):
            function["description"] = self.text()
        if self.chance(0.92):
            parameters = {}
            if self.chance(0.95):
                parameters["type"] = "object"
            if self.chance(0.93):
                parameters["properties"] = self.properties() if self.chance(0.95) else None
            if self.chance(0.6):
                parameters["required"] = self.r.sample(KEYS, self.r.randint(0, 2))
            if self.chance(0.08):
                parameters["$defs"] = self.object() if self.chance(0.8) else self.value()
            if self.chance(0.08):
                parameters["items"] = self.value()
            if self.chance(0.2):
                parameters["additionalProperties"] = False
            function["parameters"] = self.shuffled(parameters)
        return {"type": "function", "function": function}

    def images(self, message, p):
        if self.chance(p):
            message["images"] = ["aGk="] * self.r.randint(1, 3)
        return message

    def calls(self):
        made = []
        for _ in range(self.r.randint(1, 3)):
            call = {"function": {"name": self.r.choice(NAMES), "arguments": self.object(most=4)}}
            if self.chance(0.6):
                call["id"] = self.r.choice(["c", "c1", "c2", ""])
            made.append(call)
        return made

    def user(self):
        """Often one that a family takes for a tool's result."""
        text = self.text() if self.chance(0.85) else self.r.choice([mark for mark in MARKS if "tool_response>" in mark])
        return self.images({"role": "user", "content": text}, 0.2)

    def assistant(self):
        message = {"role": "assistant", "content": self.text()}
        if self.chance(0.4):
            message["thinking"] = self.text()
        turn = [self.images(message, 0.03)]
        if self.chance(0.4):
            message["tool_calls"] = self.calls()
            for _ in range(self.r.randint(0, len(message["tool_calls"]))):
                turn.append(self.result())
        return turn

    def result(self):
        message = {"role": "tool", "content": self.text()}
        if self.chance(0.4):
            message["tool_name"] = self.r.choice(NAMES + ["f", ""])
        if self.chance(0.5):
            message["tool_call_id"] = self.r.choice(["c", "c1", "c2", "c9", ""])
        return self.images(message, 0.05)

    def conversation(self):
        messages = []
        if self.chance(0.5):
            role = "system" if self.chance(0.9) else "developer"
            messages.append(self.images({"role": role, "content": self.text()}, 0.05))
        for _ in range(self.r.choice([0, 1, 1, 1, 2, 2, 3])):
            kind = self.r.random()
            if kind < 0.8:
                messages.append(self.user())
            elif kind < 0.88:
                messages.append(self.result())
            else:
                role = self.r.choice(["system", "developer", "critic", "chatbot"])
                messages.append({"role": role, "content": self.text()})
            if self.chance(0.75):
                messages += self.assistant()
                if self.chance(0.15):
                    messages += self.assistant()
        if self.chance(0.5):
            messages.append(self.user())
        request = {"messages": messages}
        if self.chance(0.45):
            request["tools"] = [self.tool() for _ in range(self.r.choice([1, 1, 2, 3]))]
        think = self.r.choice([None, None, False, False, True, True, "low", "medium", "high", "max"])
        if think is not None:
            request["think"] = think
        return request


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    maker = Maker(int(sys.argv[2]) if len(sys.argv) > 2 else 5)
    for _ in range(count):
        print(json.dumps(maker.conversation(), ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
