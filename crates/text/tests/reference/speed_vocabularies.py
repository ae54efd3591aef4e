#!/usr/bin/env python3
"""Writes what speed.py and the example `encode` measure: a text, and vocabularies of every kind trained on texts like it.

VENV/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3
VENV/bin/python crates/text/tests/reference/speed_vocabularies.py FOLDER FILE...

FILEs are any texts, some megabytes of them (sources, manuals); corpus.json's languages are mixed in. FOLDER gets text.txt
and the folders bpe, unigram (tokenizer.json), tiktoken, spm-bpe, spm-unigram (tokenizer.model) and gguf.
"""

import base64
import json
import pathlib
import sys

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
LANGUAGES = "german french greek russian arabic hindi thai chinese japanese korean emoji".split()
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT_CHARACTERS = 1_600_000
# Of each file, so that no one of them is the text.
FILE_CHARACTERS = 20_000


def readable(paths):
    for path in paths:
        try:
            yield pathlib.Path(path).read_text()[:FILE_CHARACTERS]
        except (OSError, UnicodeDecodeError):
            print("left out:", path)


def byte_level(lines, out):
    """The same vocabulary as tokenizer.json, as tiktoken's ranks and as GGUF's metadata."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=40_000, initial_alphabet=alphabet, show_progress=False))
    tokenizer.save(str(folder(out, "bpe") / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    spelled = {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}
    coded = lambda token: base64.b64encode(bytes(spelled[letter] for letter in token)).decode()
    ranks = folder(out, "tiktoken")
    (ranks / "x.tiktoken").write_text("".join(f"{coded(token)} {rank}\n" for token, rank in model["vocab"].items()))
    (ranks / "pattern").write_text(PIECES)
    metadata = {
        "model": "gpt2", "pre": "llama-bpe", "tokens": list(model["vocab"]), "token_type": [1] * len(model["vocab"]),
        "merges": [" ".join(pair) for pair in model["merges"]], "eos_token_id": 0, "add_bos_token": False,
    }  # fmt: skip
    (folder(out, "gguf") / "tokenizer.ggml.json").write_text(json.dumps(metadata))


def unigram(lines, out):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=16_000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(lines[:60_000], trainer)
    tokenizer.save(str(folder(out, "unigram") / "tokenizer.json"))


def sentencepieces(lines, out):
    text = out / "lines.txt"
    text.write_text("\n".join(lines[:120_000]))
    kinds = {
        "bpe": dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
        "unigram": dict(normalization_rule_name="nmt_nfkc"),
    }
    for kind, options in kinds.items():
        place = folder(out, f"spm-{kind}")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(place / "tokenizer"), model_type=kind, vocab_size=16_000,
            hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
        )  # fmt: skip
        (place / "tokenizer.vocab").unlink()
    text.unlink()


def folder(out, name):
    (out / name).mkdir(parents=True, exist_ok=True)
    return out / name


def main():
    out = folder(pathlib.Path(sys.argv[1]), "")
    corpus = json.loads((HERE / "corpus.json").read_text())
    languages = "\n".join(corpus[name] for name in LANGUAGES) + "\n"
    texts = list(readable(sys.argv[2:]))
    text = ""
    for one in texts[::7]:
        text += one + "\n" + languages if len(text) < TEXT_CHARACTERS else ""
    (out / "text.txt").write_text(text)
    lines = [line for one in texts for line in one.splitlines()][:200_000] + languages.splitlines() * 30
    byte_level(lines, out)
    unigram(lines, out)
    sentencepieces(lines, out)
    print(f"{len(text.encode())} bytes of text, trained on {len(lines)} lines")


main()
