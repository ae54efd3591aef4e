#!/usr/bin/env python3
"""Writes testdata/text/tokenizers/large.json: what the libraries make of a megabyte of one character, and of a megabyte
of corpus.json's texts, with the vocabularies that vocabularies.py and testdata/arch have left there.

python3 -m venv VENV && VENV/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 transformers==5.23.0 \
    tiktoken==0.14.0 mistral-common==1.13.1 protobuf
VENV/bin/python crates/text/tests/reference/large.py

For each vocabulary and text: how many tokens there are, and their ids as one number (FNV-1a, 64 bits, over four bytes of
each, the lowest first).
"""

import base64
import json
import pathlib
import re

import sentencepiece
import tiktoken
import tokenizers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as proto

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[3]
FOLDER = ROOT / "testdata" / "text" / "tokenizers"
ARCH = ROOT / "testdata" / "arch" / "_tokenizers"
SIZE = 1_000_000


def texts():
    corpus = json.loads((HERE / "corpus.json").read_text())
    joined = "\n".join(text for name, text in sorted(corpus.items()) if "special" not in name)
    # Longer runs of blanks are refused.
    made = {character: character * (SIZE // len(character.encode())) for character in "a=7é字🙂"}
    made[" "] = " " * 800_000
    made["corpus"] = (joined + "\n") * (SIZE // len(joined.encode()))
    return made


def sentencepieces():
    for name, rules in [
        ("bpe-bytes", None), ("bpe-rules", "nmt_nfkc"), ("unigram-bytes", None), ("unigram-rules", "nmt_nfkc"),
    ]:  # fmt: skip
        message = proto.ModelProto()
        message.ParseFromString((FOLDER / f"{name}.model").read_bytes())
        if rules:
            message.normalizer_spec.precompiled_charsmap = (FOLDER / f"{rules}.charsmap").read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=message.SerializeToString())
        yield f"spm {name}", processor.encode


def byte_pairs():
    patterns = (ROOT / "crates/text/src/tokenizer/patterns.rs").read_text()
    lines = (FOLDER / "ranks.tiktoken").read_text().split("\n")
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}
    expression = re.search(r'const LLAMA3: &str = r"(.*?)";', patterns).group(1)
    encoding = tiktoken.Encoding("x", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    yield "tiktoken cl100k_base.tiktoken", encoding.encode_ordinary
    tekken = Tekkenizer.from_file(FOLDER / "tekken.json")
    yield "tekken", lambda text: tekken.encode(text, bos=False, eos=False)


def described():
    for folder in sorted(ARCH.iterdir()):
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        yield f"arch {folder.name}", lambda text, tokenizer=tokenizer: tokenizer.encode(text, add_special_tokens=False).ids


def fingerprint(ids):
    value = 0xCBF29CE484222325
    for byte in b"".join(id.to_bytes(4, "little") for id in ids):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def main():
    cases = {}
    # Four of the vocabularies there are alike.
    alike = {"arch 36b68c6fa636", "arch 5e0eaedf04e9", "arch 67761edb2e93"}
    for name, encode in [*sentencepieces(), *byte_pairs(), *described()]:
        if name in alike:
            continue
        cases[name] = {}
        for key, text in texts().items():
            ids = encode(text)
            cases[name][key] = {"tokens": len(ids), "ids": fingerprint(ids)}
        print(name, cases[name])
    made_by = [f"{module.__name__} {module.__version__}" for module in (sentencepiece, tiktoken, tokenizers)]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case, ensure_ascii=False)}" for name, case in cases.items())
    (FOLDER / "large.json").write_text(f'{{"made by": {json.dumps(made_by)},\n"cases": {{\n{lines}\n}}}}\n')


main()
