#!/usr/bin/env python3
"""Records what Ollama's built-in renderers make of our conversations (conversations.py), with Go's own compiler.

    make.py CHECKOUT [--only FOLDER] [--count N] [--seed N]

CHECKOUT is a throw-away checkout of Ollama; the program main.go is put into it. One renderer there goes through a map
in Go's random order: it is made to go through it in alphabetic order. Without --only, testdata/text/renderers is
rewritten: some prompts whole, all by their hash. With it, all prompts whole, into a folder for the ignored test.
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
TESTDATA = HERE.parents[4] / "testdata/text/renderers"
TEXT_BYTES = 18_000  # of whole prompts for each renderer
NAMES = """cogito cohere deepseek3.1 functiongemma gemma4 gemma4-large gemma4-small glimmer glm-4.7 glm-ocr laguna lfm2
lfm2-thinking nemotron-3-nano nemotron-3.5-nano olmo3 olmo3-32b-think olmo3-think olmo3.1 ornith poolside-v1 qwen3-coder
qwen3-vl-instruct qwen3-vl-thinking qwen3.5 qwen3.8""".split()


def build(checkout):
    coder = checkout / "model/renderers/qwen3coder.go"
    source = coder.read_text()
    loop = "\tfor key, value := range m {\n"
    if loop in source:
        sorted_loop = "\tfor _, key := range slices.Sorted(maps.Keys(m)) {\n\t\tvalue := m[key]\n"
        source = source.replace(loop, sorted_loop).replace('\t"reflect"\n', '\t"maps"\n\t"reflect"\n\t"slices"\n', 1)
        coder.write_text(source)
    folder = checkout / "cmd/reference"
    folder.mkdir(exist_ok=True)
    (folder / "main.go").write_text((HERE / "main.go").read_text())
    subprocess.run(["go", "build", "-mod=mod", "-o", "reference", "./cmd/reference"], cwd=checkout, check=True)
    return checkout / "reference"


def hash_of(text):
    """FNV-1a of 64 bits, folded to 32."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value >> 32 ^ value & 0xFFFFFFFF:08x}"


def text_of(answer):
    return "error: " + answer["error"] if "error" in answer else answer.get("prompt", "")


def some(texts):
    """Whole prompts as far as they fit, each that is shorter than an eighth of what there is."""
    chosen, left = {}, TEXT_BYTES
    for number, text in enumerate(texts):
        size = len(json.dumps(text, ensure_ascii=False).encode()) + 12
        if size <= min(left, TEXT_BYTES // 8):
            chosen[number] = text
            left -= size
    return chosen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--only", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    program = build(options.checkout.resolve())
    make = [sys.executable, HERE / "conversations.py", str(options.count), str(options.seed)]
    conversations = subprocess.run(make, check=True, capture_output=True).stdout
    run = subprocess.run([program, *NAMES], input=conversations, check=True, capture_output=True)
    date = datetime.date.today().isoformat()
    folder = options.only or TESTDATA
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conversations.jsonl").write_bytes(conversations)
    answers = [json.loads(line) for line in run.stdout.decode().split("\n") if line]
    for name in NAMES:
        texts = [text_of(answer[name]) for answer in answers]
        kept = dict(enumerate(texts)) if options.only else some(texts)
        recorded = {"date": date, "hashes": [hash_of(text) for text in texts] if not options.only else [], "texts": kept}
        (folder / f"{name}.json").write_text(json.dumps(recorded, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
