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


chat.datetime = Clock


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


def tagged(ours, count):
    """The content with the tags of pictures, of which `count` came before."""
    content, before = ours["content"], ""
    for number, _ in enumerate(ours.get("images", []), count):
        if "[img]" in content:
            content = content.replace("[img]", f"[img-{number}]", 1)
        else:
            before += f"[img-{number}]"
    return before + content


def in_parts(ours):
    count = len(ours.get("images", []))
    pieces = ours["content"].split("[img]", count)
    marked = len(pieces) - 1
    parts = [{"type": "image"}] * (count - marked)
    for index, piece in enumerate(pieces):
        parts += [{"type": "image"}] if index else []
        parts += [{"type": "text", "text": piece}] if piece or not marked else []
    return parts


def wants_parts(source):
    """For templates that know pictures, and for those that do not show a content that is one text."""
    def shows(content):
        try:
            one = {"role": "user", "content": content}
            text, _ = chat.render_jinja_template([[one]], chat_template=source, add_generation_prompt=True, **NAMED)
            return "ollmlx-probe" in text[0]
        except Exception:
            return False

    always = not shows("ollmlx-probe") and shows([{"type": "text", "text": "ollmlx-probe"}])
    return always, any(word in source for word in ("'image'", '"image"', "'image_url'", '"image_url"'))


def messages(all_ours, source):
    """Our words as the ones of Hugging Face."""
    always, images = wants_parts(source)
    count, theirs = 0, []
    for ours in all_ours:
        own = len(ours.get("images", []))
        parts = always or (images and own)
        theirs.append(message(ours, in_parts(ours) if parts else tagged(ours, count)))
        count += 0 if parts else own
    return theirs


def message(ours, content):
    theirs = {"role": role(ours["role"]), "content": content}
    if "thinking" in ours:
        theirs["thinking"] = ours["thinking"]
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
    theirs = messages(conversation["messages"], source)
    goes_on = bool(theirs) and theirs[-1]["role"] == "assistant" and "tool_calls" not in theirs[-1]
    try:
        texts, _ = chat.render_jinja_template(
            [theirs],
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


if __name__ == "__main__":
    main()
