#!/usr/bin/env python3
"""What transformers makes of our conversations with templates from anywhere: beside each FOLDER/*.jinja.

VENV/bin/python crates/text/tests/reference/jinja.py FOLDER
OLLMLX_TEMPLATES=FOLDER cargo test -p text --lib -- --ignored templates_from_anywhere
"""

import json
import pathlib
import sys

import make


def main():
    folder = pathlib.Path(sys.argv[1])
    conversations = json.loads((make.HERE / "conversations.json").read_text())
    rendered = {
        f"{path.name}: {name}": make.render(path.read_text(), conversation)
        for path in sorted(folder.glob("*.jinja"))
        for name, conversation in conversations.items()
    }
    (folder / "jinja.json").write_text(json.dumps(rendered, ensure_ascii=False, indent=0))
    failed = sum("error" in one for one in rendered.values())
    print(f"{len(rendered)} prompts, {failed} of them errors")


main()
