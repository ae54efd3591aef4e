"""Writes the held-out sets, one file of JSON lines a skill: the conversation, whether thinking is on, how to judge."""

import argparse
import json
import pathlib

from data.case import render
from data.mixture import held_out_sets

# Of each set, for the test that our template engine writes what this rendering does.
RENDERED = 2


def line(case):
    messages = [{key: value for key, value in message.items() if key != "aloud"} for message in case.question()]
    made = {"messages": messages}
    if case.tools:
        made["tools"] = case.tools
    made["think"] = not case.quiet
    made["expect"] = case.expect
    return json.dumps(made, ensure_ascii=False)


def rendered(case):
    """The prompt as it is written for a client that sends thoughts back only where it asked for them."""
    for message in case.messages if case.quiet else []:
        message.pop("reasoning_content", None)
    for tool in case.tools or []:
        # The order that a request's functions have once they are read.
        inner = tool["function"]
        tool["function"] = {key: inner[key] for key in ("name", "description", "parameters")}
    made = json.loads(line(case))
    del made["expect"]
    made["text"] = "".join(text for text, _ in render(case, generate=True))
    return json.dumps(made, ensure_ascii=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cases", type=int, default=60)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    prompts = []
    for name, cases in held_out_sets(given.cases):
        if "00" not in name:
            prompts += cases[:RENDERED]
        lines = [line(case) for case in cases]
        (given.folder / (name.replace(" ", "-") + ".jsonl")).write_text("\n".join(lines) + "\n")
    (given.folder / "rendered.json").write_text("[\n" + ",\n".join(map(rendered, prompts)) + "\n]\n")
