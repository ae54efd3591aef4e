#!/usr/bin/env python3
"""Replies in the notation of every family, whole and damaged, for the test of the parsers.

The recorded file is made so, in a checkout of Ollama with this folder copied to `cmd/cases`:

    python3 cases.py | go run ./cmd/cases > testdata/text/parsers/ollama.jsonl

Every line holds a case and what Ollama's parsers make of it: fed at once, letter by letter, and at once as the last
piece (each fold once). Everything here is made from a seed.
"""
import json
import random

WHOLE, DAMAGED = 14, 12

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"}}}}},
    {"type": "function", "function": {"name": "store", "description": "", "parameters": {
        "type": "object", "properties": {
            "key": {"type": ["string", "null"]}, "value": {"anyOf": [{"type": "number"}, {"type": "string"}]},
            "tags": {"type": "array"}, "extra": {"type": "object"}, "share": {"type": "number"}}}}},
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {
        "type": "object", "properties": {}}}},
]

random_ = random.Random(20261121)
pick, chance = random_.choice, lambda p: random_.random() < p

WORDS = ["The", "sum", "is 4.", "Let me", "see:", "naïve", "日本", "😀", "a < b", "x > y & z", "line\nbreak", "`code`",
         "{braces}", "it's", "\"quoted\"", "- item\n- item", "<b>bold</b>", "</", "1,5%"]


def prose(n=None):
    return " ".join(pick(WORDS) for _ in range(n or random_.randint(1, 6)))


def plain():
    """Without what other notations are made of."""
    return " ".join(pick(["The", "sum", "is", "naïve", "日本", "fine."]) for _ in range(random_.randint(1, 5)))


def arguments():
    name = pick(["get_weather", "get_weather", "store", "now"])
    if name == "now":
        return name, {}
    if name == "get_weather":
        got = {"city": pick(["Oslo", "São Paulo", "New York, NY", "東京"])}
        if chance(.6):
            got["days"] = random_.randint(-3, 12)
        if chance(.4):
            got["metric"] = chance(.5)
        return name, got
    got = {}
    for key in random_.sample(["key", "value", "tags", "extra", "share"], random_.randint(1, 4)):
        got[key] = {
            "key": lambda: pick(["k", "two words", "ünï"]),
            "value": lambda: pick([7, 2.5, "text", "3 apples"]),
            "tags": lambda: pick([[], ["a", "b"], [1, 2]]),
            "extra": lambda: pick([{}, {"b": 1, "a": {"c": [True]}}]),
            "share": lambda: pick([0.25, 12, -1.5]),
        }[key]()
    return name, got


def bare(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def js(value):
    return json.dumps(value, ensure_ascii=False)


def py(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{py(k)}: {py(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(py, value)) + "]"
    if isinstance(value, str):
        return "\"" + value.replace("\\", "\\\\").replace("\"", "\\\"") + "\""
    return repr(value)


def gemma(value, quote):
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{gemma(v, quote)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(gemma(v, quote) for v in value) + "]"
    return quote + value + quote if isinstance(value, str) else json.dumps(value)


def json_call(name, args):
    return "<tool_call>\n" + js({"name": name, "arguments": args}) + "\n</tool_call>"


def xml_call(name, args):
    inner = "".join(f"<parameter={k}>\n{bare(v)}\n</parameter>\n" for k, v in args.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def glm_call(name, args):
    gap = pick(["", "\n"])
    inner = "".join(f"<arg_key>{k}</arg_key>{gap}<arg_value>{bare(v)}</arg_value>{gap}" for k, v in args.items())
    return f"<tool_call>{name}{gap}{inner}</tool_call>"


def deepseek_calls(calls):
    inner = "".join(f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{js(a)}<｜tool▁call▁end｜>" for n, a in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def cogito_calls(calls):
    inner = "\n".join(f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{n}\n```json\n{js(a)}\n```<｜tool▁call▁end｜>" for n, a in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def python_call(name, args):
    return f"{name}({', '.join(f'{k}={py(v)}' for k, v in args.items())})"


def atem(name, args):
    inner = "".join(f'<atem:parameter name="{k}">{bare(v)}</atem:parameter>\n' for k, v in args.items())
    return f'<atem:function_calls>\n<atem:invoke name="{name}">\n{inner}</atem:invoke>\n</atem:function_calls>'


def each(one, join):
    return lambda calls: join.join(one(*c) for c in calls)


# Name: tags around thoughts (None: none), how calls are written (None: never), whether white space stands around calls.
SHAPES = {
    "passthrough": (None, None),
    "qwen3": (None, each(json_call, "\n")),
    "qwen3-thinking": ("<think>", each(json_call, "\n")),
    "qwen3-coder": (None, each(xml_call, "\n")),
    "qwen3.5": ("<think>", each(xml_call, "\n")),
    "ornith": ("<think>", each(xml_call, "\n")),
    "qwen3-vl-instruct": (None, each(json_call, "\n")),
    "qwen3-vl-thinking": ("", each(json_call, "\n")),
    "ministral": (None, each(lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{js(a)}", "")),
    "cogito": ("", cogito_calls),
    "deepseek3": ("", deepseek_calls),
    "olmo3": (None, lambda calls: "<function_calls>" + "\n".join(python_call(*c) for c in calls) + "</function_calls>"),
    "olmo3-think": ("", None),
    "nemotron-3-nano": ("<think>", each(xml_call, "\n")),
    "nemotron-3.5-nano": ("<think>", each(xml_call, "\n")),
    "functiongemma": (None, each(lambda n, a: f"<start_function_call>call:{n}{gemma(a, '<escape>')}<end_function_call>", "")),
    "glm-4.7": ("", each(glm_call, pick(["", "\n"]))),
    "glm-ocr": (None, each(glm_call, "")),
    "gemma4": (None, each(lambda n, a: f"<|tool_call>call:{n}{gemma(a, '<|' + chr(34) + '|>')}<tool_call|>", "")),
    "gemma4-no-thinking": (None, each(lambda n, a: f"<|tool_call>call:{n}{gemma(a, '<|' + chr(34) + '|>')}<tool_call|>", "")),
    "lfm2": (None, lambda calls: "<|tool_call_start|>[" + ", ".join(python_call(*c) for c in calls) + "]<|tool_call_end|>"),
    "lfm2-thinking": ("<think>", lambda calls: "<|tool_call_start|>[" + ", ".join(python_call(*c) for c in calls) + "]<|tool_call_end|>"),
    "laguna": ("<think>", each(glm_call, "\n")),
    "poolside-v1": ("<think>", each(glm_call, "\n")),
}


def reply(name, think):
    """A whole reply, and whether the format lets it think."""
    open_, calls = SHAPES[name]
    text, spaced = "", pick(["", "\n", "\n\n"])
    prose_ = plain if name in ("laguna", "poolside-v1", "functiongemma") else prose
    if name.startswith("gemma4") and chance(.5):
        text += f"<|channel>thought\n{prose_()}\n<channel|>"
    elif open_ is not None and think:
        start = f"{open_}\n" if open_ and chance(.4) else ""
        text += f"{start}{prose_()}\n</think>{spaced}"
    some = [arguments() for _ in range(random_.randint(1, 3))] if calls and chance(.65) else []
    if not some or chance(.5):
        text += prose_()
        if some:
            text += spaced
    if some:
        text += calls(some)
        if chance(.25) and name not in ("cogito", "deepseek3"):
            text += spaced + prose_()
    return text


def harmony(_):
    text = pick(["", f"<|channel|>analysis<|message|>{prose()}<|end|><|start|>assistant"])
    if chance(.4):
        text += f"<|channel|>commentary<|message|>{prose()}<|end|><|start|>assistant"
    if chance(.5):
        name, args = arguments()
        order = pick([" to=functions.{n}<|channel|>commentary <|constrain|>json", "<|channel|>commentary to=functions.{n} <|constrain|>json",
                      "<|channel|>commentary to=functions.{n}<|constrain|>json", "<|channel|>analysis to=functions.{n} code"])
        return text + order.format(n=name) + f"<|message|>{js(args)}"
    return text + f"<|channel|>final<|message|>{prose()}"


def glimmer(_):
    text = ""
    if chance(.6):
        text += f" to=self<|message|>{prose()}<|eom|><|start|>assistant"
    if chance(.4):
        text += f" to=user<|message|>{prose()}<|eom|><|start|>assistant"
    if chance(.6):
        for _ in range(random_.randint(0, 1)):
            name, args = arguments()
            text += f" to={name}<|message|>{atem(name, args)}<|eom|><|start|>assistant"
        name, args = arguments()
        return text + f" to={pick([name, name, 'user'])}<|message|>{atem(name, args)}<|eot|>"
    return text + f" to=user<|message|>{prose()}<|eot|>"


def cohere(think):
    text = f"{prose()}\n<|END_THINKING|>" if think else ""
    if chance(.5):
        actions = []
        for index in range(random_.randint(1, 2)):
            name, args = arguments()
            actions.append({"tool_call_id": str(index), "tool_name": name, "parameters": args})
        return text + "<|START_ACTION|>[\n    " + ",\n    ".join(map(js, actions)) + "\n]<|END_ACTION|>"
    opening, closing = pick([("<|START_TEXT|>", "<|END_TEXT|>"), ("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("", "")])
    return text + opening + prose() + closing


TEMPLATES = [
    # Thinking and calls in tags.
    """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>
{{ .Thinking }}
</think>
{{ end }}{{ .Content }}
{{- if .ToolCalls }}
{{- range .ToolCalls }}
<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>
{{- end }}{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
""",
    # A list behind a tag.
    """{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }}[/INST]{{ else if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{- end }}]</s>
{{- end }}{{ end }}""",
    # Bare objects.
    """{{ range .Messages }}{{ if .ToolCalls }}{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}{{ else }}{{ .Content }}{{ end }}{{ end }}""",
    # Thinking only, in words of its own.
    """{{ range $i, $_ := .Messages }}{{ if and .Thinking (gt $i 0) -}}
<reasoning>{{ .Thinking }}</reasoning>{{- end }}{{ .Content }}{{ end }}""",
    "{{ .System }}{{ .Prompt }}",
]


def generic(index, think):
    text = ""
    opening = {0: ("<think>\n", "\n</think>\n\n"), 3: ("<reasoning>", "</reasoning>\n")}.get(index)
    if opening and think:
        text += opening[0] + prose() + opening[1]
    some = [arguments() for _ in range(random_.randint(1, 2))]
    if chance(.4):
        return text + plain()
    key = pick(["arguments", "parameters"])
    objects = [js({"name": n, key: a}) for n, a in some]
    if index == 0:
        return text + pick(["", plain() + "\n"]) + "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)
    if index == 1:
        return text + "[TOOL_CALLS] [" + ", ".join(objects) + "]"
    return text + pick(["", "\n"]) + objects[0]


def damage(text):
    for _ in range(random_.randint(1, 2)):
        kind, at = random_.randrange(5), random_.randrange(len(text) + 1)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[:at] + text[at + random_.randint(1, 6):]
        elif kind == 2:
            text = text[:at] + pick(TAGS) + text[at:]
        elif kind == 3 and "<" in text:
            tags = [i for i, c in enumerate(text) if c in "<["]
            start = pick(tags or [0])
            text = text[:start] + text[start + random_.randint(2, 14):]
        else:
            text = text[:at] + pick(["\"", "{", "}", "\\", "\n", " ", "<", "é"]) + text[at:]
    return text


TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<function=now>", "</parameter>", "<arg_key>", "</arg_value>",
        "[TOOL_CALLS]", "[ARGS]", "<|end|>", "<|start|>", "<|message|>", "<|channel>", "<channel|>", "<|tool_call>",
        "<tool_call|>", "<|END_TEXT|>", "<|START_ACTION|>", "<｜tool▁calls▁end｜>", "<｜tool▁output▁begin｜>", "<|eom|>"]


def emit(case):
    print(js(case))


def cases(make, base, thinks):
    for kind, count in (("whole", WHOLE), ("damaged", DAMAGED)):
        for _ in range(count):
            think = pick([True, True, False]) if thinks else None
            case = dict(base, kind=kind)
            if think is not None:
                case["think"] = think
            text = make(think)
            if kind == "damaged":
                text = damage(text)
            if chance(.1):
                case["bare"] = True
            if text:
                emit(dict(case, text=text))


def main():
    emit({"tools": TOOLS})
    thinking = {n for n, (open_, _) in SHAPES.items() if open_ is not None} | {"gemma4"}
    always = {"qwen3-vl-thinking", "olmo3-think"}
    for name in SHAPES:
        cases(lambda think: reply(name, think or name in always), {"parser": name}, name in thinking)
    cases(harmony, {"parser": "harmony"}, False)
    cases(glimmer, {"parser": "glimmer"}, True)
    cases(cohere, {"parser": "cohere"}, True)
    for name in sorted(thinking | {"cohere"}):
        emit({"parser": name, "kind": "whole", "think": True, "last": {"role": "assistant", "content": "So"}, "text": "it is."})
    for last in ({"content": "x"}, {"content": "", "thinking": "x"}):
        emit({"parser": "harmony", "kind": "whole", "last": {"role": "assistant", **last}, "text": "y<|end|>"})
    for index, template in enumerate(TEMPLATES):
        cases(lambda think: generic(index, think), {"template": template, "prompt": "x"}, True)
        cases(lambda think: generic(index, think).removeprefix("<think>\n"), {"template": template, "prompt": "x<think>\n"}, True)


if __name__ == "__main__":
    main()
