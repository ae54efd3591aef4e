"""Writes the held-out sets, one file of JSON lines a skill: the conversation, whether thinking is on, how to judge."""

import argparse
import json
import pathlib

from data.mixture import held_out_sets


def line(case):
    messages = [{key: value for key, value in message.items() if key != "aloud"} for message in case.question()]
    made = {"messages": messages}
    if case.tools:
        made["tools"] = case.tools
    made["think"] = not case.quiet
    made["expect"] = case.expect
    return json.dumps(made, ensure_ascii=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cases", type=int, default=60)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, cases in held_out_sets(given.cases):
        lines = [line(case) for case in cases]
        (given.folder / (name.replace(" ", "-") + ".jsonl")).write_text("\n".join(lines) + "\n")
