#!/usr/bin/env python3
"""Writes the goldens of this crate: what transformers and tokenizers make of our cases.

python3 -m venv VENV && VENV/bin/pip install transformers==5.23.0 jinja2 tokenizers
VENV/bin/python crates/text/tests/reference/make.py

templates.json: every conversation through every template, those of testdata/arch, pocket's
and those in templates/.
tokens.json: the ids of corpus.json's texts under every tokenizer of testdata/arch/_tokenizers.
"""

import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as chat
from tokenizers import Tokenizer
from tokenizers import __version__ as tokenizers_version
from transformers import __version__ as transformers_version

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[3]
ARCH = ROOT / "testdata" / "arch"
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class Clock(datetime.datetime):
    """The same moment as in the Rust test."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 7, 15, 4, 5)


def templates():
    """Source by name; published ones by the first fixture that has them."""
    found = {}
    for path in sorted(ARCH.glob("*/tokenizer_config.json")):
        source = json.loads(path.read_text()).get("chat_template")
        if source is not None and source not in found.values():
            found[f"arch/{path.parent.name}"] = source
    found["models/pocket"] = json.loads((ROOT / "models/pocket/tokenizer_config.json").read_text())["chat_template"]
    for path in sorted((HERE / "templates").glob("*.jinja")):
        found[path.name] = path.read_text()
    return found


def role(word):
    return word["other"] if isinstance(word, dict) else word


def message(ours):
    """Our words as the ones of Hugging Face."""
    theirs = {"role": role(ours["role"]), "content": ours["content"]}
    if "thinking" in ours:
        theirs["reasoning_content"] = ours["thinking"]
    if "tool_calls" in ours:
        theirs["tool_calls"] = [call(one) for one in ours["tool_calls"]]
    if "tool_name" in ours:
        theirs["name"] = ours["tool_name"]
    if "tool_call_id" in ours:
        theirs["tool_call_id"] = ours["tool_call_id"]
    return theirs


def call(ours):
    theirs = {"id": ours["id"]} if "id" in ours else {}
    function = {"name": ours["name"], "arguments": ours["arguments"]}
    return {**theirs, "type": "function", "function": function}


def thinking(think):
    if think is None:
        return {}
    flags = {"enable_thinking": think != "off", "thinking": think != "off"}
    return {**flags, "reasoning_effort": think["level"]} if isinstance(think, dict) else flags


def render(source, conversation):
    messages = [message(one) for one in conversation["messages"]]
    goes_on = bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]
    try:
        texts, _ = chat.render_jinja_template(
            [messages],
            tools=conversation.get("tools"),
            chat_template=source,
            continue_final_message=goes_on,
            add_generation_prompt=not goes_on,
            **NAMED,
            **thinking(conversation.get("think")),
        )
        return {"text": texts[0]}
    except Exception as error:  # whatever a template may raise is a refusal
        return {"error": str(error)}


def write(name, versions, cases):
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in cases.items())
    (HERE / name).write_text(f"{{\n \"made by\": {json.dumps(versions)},\n{lines}\n}}\n")


def main():
    chat.datetime = Clock
    conversations = json.loads((HERE / "conversations.json").read_text())
    rendered = {
        f"{template}: {name}": render(source, conversation)
        for template, source in templates().items()
        for name, conversation in conversations.items()
    }
    write("templates.json", f"transformers {transformers_version}", rendered)
    texts = json.loads((HERE / "corpus.json").read_text())
    tokens = {}
    for path in sorted(ARCH.glob("_tokenizers/*/tokenizer.json")):
        tokenizer = Tokenizer.from_file(str(path))
        for name, text in texts.items():
            bare = tokenizer.encode(text, add_special_tokens=False).ids
            whole = tokenizer.encode(text).ids
            decoded = tokenizer.decode(bare, skip_special_tokens=False)
            tokens[f"{path.parent.name}: {name}"] = {"bare": bare, "whole": whole, "decoded": decoded}
    write("tokens.json", f"tokenizers {tokenizers_version}", tokens)


main()
