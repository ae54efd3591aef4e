#!/usr/bin/env python3
"""How fast the Python packages are, on one thread: speed.py FOLDER TEXT [RUNS]. See crates/text/examples/encode.rs."""

import os
import pathlib
import statistics
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import sentencepiece
import tiktoken
import tokenizers

folder, text = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text()
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 7


def encoder():
    if (folder / "tokenizer.json").exists():
        inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: inner.encode(text, add_special_tokens=False).ids
    if (folder / "tokenizer.model").exists():
        return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(next(folder.glob("*.tiktoken"))))
    expression = (folder / "pattern").read_text()
    return tiktoken.Encoding("x", pat_str=expression, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def median(work):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return len(text.encode()) / 1e6 / statistics.median(times)


encode = encoder()
lines = text.splitlines(keepends=True)
print(f"{folder}: {len(text.encode())} bytes are {len(encode(text))} tokens")
print(f"  at once {median(lambda: encode(text)):.2f} MB/s")
print(f"  by line {median(lambda: [encode(line) for line in lines]):.2f} MB/s")
