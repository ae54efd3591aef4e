#!/usr/bin/env python3
"""Writes testdata/text/tokenizers: small vocabularies of every kind that comes without a tokenizer.json, and the ids
that the libraries they belong to give to our texts.

python3 -m venv VENV && VENV/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 transformers==5.23.0 \
    tiktoken==0.14.0 mistral-common==1.13.1 protobuf
VENV/bin/python crates/text/tests/reference/vocabularies.py

cases.json: for each case its files (an object is a file's JSON, a string the name of one beside it, or of two to be
joined) and, for each text, `bare` ids, `whole` ids where the library puts tokens around a text, and the text that it
decodes them to.
"""

import base64
import json
import pathlib
import random
import re
import tempfile

import sentencepiece
import tiktoken
import tokenizers
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[3]
OUT = ROOT / "testdata" / "text" / "tokenizers"
PATTERNS = (ROOT / "crates/text/src/tokenizer/patterns.rs").read_text()


def texts():
    """Those of corpus.json, and some that nobody would write."""
    found = json.loads((HERE / "corpus.json").read_text())
    found["long runs"] = "=" * 70 + "\n" + " " * 130 + "a" * 90 + "\t" * 20 + "7" * 25
    found["digits"] = "1234567890 12 1,234.5678e-9 ١٢٣٤ 12a 3½ 1234x 12345_ 000"
    found["apostrophes"] = "I'm you'RE it's'll 'Tis O'Neil's ’s 'sſ"
    found["blanks"] = " a  b   c \n d\n\n e \r\n\r\n f\u3000\u3000g\u00a0 h\t\ti  "
    found["widths"] = "ＡＢＣ１２３ ｶﾞｷﾞ ㍿ ﬁ ﷺ Ⅷ ½ ① \u2126 \u212b e\u0301"
    found["symbols"] = "user:<|user|> <x> <sep> <s>x</s> ▁▁a▁ [MASK] <mask>  <unk>"
    random_source = random.Random(7)
    letters = "abcdeABé ßЖж字語あ한🙂\u0301\u200d 　\t\n\r019½'’-_.,!?(){}<>/\\=+#$%^&*@|~`▁"
    for index in range(16):
        size = random_source.randrange(5, 90)
        found[f"random {index}"] = "".join(random_source.choice(letters) for _ in range(size))
    return found


TEXTS = texts()


def corpus():
    """Something to train on: what this repository says, and the texts themselves."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("crates/text/src/*.rs")]
    lines = [line for path in sorted(files) for line in path.read_text().splitlines() if line.strip()]
    return lines[:2500] + [line for text in TEXTS.values() for line in text.splitlines()] * 4


CASES = {}


def add(name, files, encode, decode=None, whole=None, skip=()):
    results = {}
    for key, text in TEXTS.items():
        if key in skip:
            continue
        ids = encode(text)
        results[key] = {"bare": ids}
        if whole:
            results[key]["whole"] = whole(text)
        if decode:
            results[key]["decoded"] = decode(ids)
    CASES[name] = {"files": files, "texts": results}
    print(name, sum(len(one["bare"]) for one in results.values()))


# SentencePiece


def sentencepiece_model(**options):
    with tempfile.TemporaryDirectory() as folder:
        lines = pathlib.Path(folder) / "lines.txt"
        lines.write_text("\n".join(line.replace("\0", "") for line in corpus()))
        prefix = str(pathlib.Path(folder) / "model")
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines), model_prefix=prefix, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options
        )
        message = proto.ModelProto()
        message.ParseFromString(pathlib.Path(prefix + ".model").read_bytes())
    message.trainer_spec.input[:] = []
    message.trainer_spec.model_prefix = ""
    return message


def write_model(name, message):
    """The rules are the same in many models, and large: they lie beside them, once."""
    rules = message.normalizer_spec.name if message.normalizer_spec.precompiled_charsmap else ""
    files = [f"{name}.model"]
    if rules:
        (OUT / f"{rules}.charsmap").write_bytes(message.normalizer_spec.precompiled_charsmap)
        files.append(f"{rules}.charsmap")
        message.normalizer_spec.ClearField("precompiled_charsmap")
    (OUT / f"{name}.model").write_bytes(message.SerializeToString())
    return files


def gguf_of(kind, message):
    pieces = message.pieces
    return {
        "model": kind,
        "tokens": [piece.piece for piece in pieces],
        "scores": [piece.score for piece in pieces],
        "token_type": [piece.type for piece in pieces],
        "add_space_prefix": message.normalizer_spec.add_dummy_prefix,
        "remove_extra_whitespaces": message.normalizer_spec.remove_extra_whitespaces,
    }


SPECIALS = dict(control_symbols=["<sep>"], user_defined_symbols=["<|user|>", "  ", "=="])
MODELS = {
    "bpe-bytes": dict(
        model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, **SPECIALS,
    ),
    "bpe-rules": dict(model_type="bpe", vocab_size=600, character_coverage=0.98),
    "bpe-suffix": dict(
        model_type="bpe", vocab_size=500, normalization_rule_name="identity", treat_whitespace_as_suffix=True,
        character_coverage=0.98, user_defined_symbols=["a b"],
    ),
    "unigram-rules": dict(model_type="unigram", vocab_size=600, character_coverage=0.98, pad_id=3, **SPECIALS),
    "unigram-bytes": dict(
        model_type="unigram", vocab_size=800, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=False, allow_whitespace_only_pieces=True,
        user_defined_symbols=["<|user|>", "▁▁"],
    ),
    "unigram-folded": dict(
        model_type="unigram", vocab_size=500, normalization_rule_name="nmt_nfkc_cf", treat_whitespace_as_suffix=True,
        character_coverage=0.98,
    ),
}  # fmt: skip


def unused(message):
    """Some pieces are there and not to be used."""
    changed = proto.ModelProto()
    changed.CopyFrom(message)
    normal = [piece for piece in changed.pieces if piece.type == 1 and len(piece.piece) > 2]
    for piece in normal[::3]:
        piece.type = 5
    return changed


def add_sentencepiece():
    models = {name: sentencepiece_model(**options) for name, options in MODELS.items()}
    models["bpe-unused"] = unused(models["bpe-bytes"])
    models["unigram-unused"] = unused(models["unigram-bytes"])
    for name, message in models.items():
        processor = sentencepiece.SentencePieceProcessor(model_proto=message.SerializeToString())
        # Control symbols are text to that library, and tokens to us.
        skip = {"symbols", *(key for key in TEXTS if key.startswith("special"))}
        arguments = dict(encode=processor.encode, decode=processor.decode, skip=skip)
        metadata = gguf_of("t5" if "unigram" in name else "llama", message)
        files = write_model(name, message)
        add(f"spm {name}", {"tokenizer.model": files}, **arguments)
        if "suffix" not in name and "folded" not in name:
            charsmap = [one for one in files if one.endswith("charsmap")]
            (OUT / f"{name}.ggml.json").write_text(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")))
            add(f"gguf {name}", {"tokenizer.ggml.json": [f"{name}.ggml.json", *charsmap]}, **arguments)


# Byte-level vocabularies


def byte_level(size=900):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def spelled():
    """GPT-2's alphabet, from characters to bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


def pattern(name):
    found = re.search(rf'const {name}: &str =\s*(?:r"(.*?)"|r##"(.*?)"##|"(.*?)");', PATTERNS, re.S)
    return found.group(1) or found.group(2) or unicode_escapes(found.group(3))


def unicode_escapes(text):
    return re.sub(r"\\u\{([0-9a-f]+)\}", lambda match: chr(int(match.group(1), 16)), text)


def add_tiktoken(vocab):
    alphabet = spelled()
    ranks = {bytes(alphabet[one] for one in token): rank for token, rank in vocab.items()}
    assert sorted(ranks.values()) == list(range(len(ranks)))
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (OUT / "ranks.tiktoken").write_text("\n".join(lines) + "\n")
    first = len(ranks)
    for name, expression, specials in [
        ("gpt2.tiktoken", "GPT2", ["<|endoftext|>"]),
        ("cl100k_base.tiktoken", "LLAMA3", []),
        ("o200k_base.tiktoken", "O200K", ["<|startoftext|>", "<|endoftext|>"]),
        ("kimi.tiktoken", "KIMI", []),
    ]:
        special_tokens = {text: first + index for index, text in enumerate(specials)}
        encoding = tiktoken.Encoding(
            name, pat_str=pattern(expression), mergeable_ranks=ranks, special_tokens=special_tokens
        )
        encode = lambda text: encoding.encode(text, allowed_special="all", disallowed_special=())
        add(f"tiktoken {name}", {name: "ranks.tiktoken"}, encode, encoding.decode)
    add_tekken(ranks)


def add_tekken(ranks):
    # There the bytes come in their own order.
    ordered = [bytes([byte]) for byte in range(256)] + [token for token in ranks if len(token) > 1]
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(ordered)
    ]
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    size = len(vocab) - 100
    file = {
        "config": {
            "pattern": pattern("TEKKEN"), "num_vocab_tokens": len(vocab), "default_vocab_size": size + 8,
            "default_num_special_tokens": 8, "version": "v11",
        },
        "vocab": vocab,
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(specials)],
    }  # fmt: skip
    (OUT / "tekken.json").write_text(json.dumps(file, separators=(",", ":")))
    tekken = Tekkenizer.from_file(OUT / "tekken.json")
    skip = {"symbols", *(key for key in TEXTS if key.startswith("special"))}
    encode = lambda text: tekken.encode(text, bos=False, eos=False)
    add("tekken", {"tekken.json": "tekken.json"}, encode, None, lambda text: tekken.encode(text, True, False), skip)


def write_table(vocab, merges):
    (OUT / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")))
    (OUT / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")


def add_transformers(name, cls, files, config):
    """As transformers loads a folder of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for target, source in files.items():
            (pathlib.Path(folder) / target).write_bytes((OUT / source).read_bytes())
        (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = cls.from_pretrained(folder)
    bare = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    add(name, {**files, "tokenizer_config.json": config}, bare, decode, lambda text: tokenizer(text)["input_ids"])


def add_tables(vocab, merges):
    first = len(vocab)
    extended = {**vocab, "<|endoftext|>": first, "<s>": first + 1, "</s>": first + 2, "<unk>": first + 3}
    extended |= {"<pad>": first + 4, "<mask>": first + 5}
    write_table(extended, merges)
    files = {"vocab.json": "vocab.json", "merges.txt": "merges.txt"}
    added = {
        str(first): {"content": "<|endoftext|>", "special": True},
        str(first + 6): {"content": "<|user|>", "special": False, "lstrip": True, "normalized": False},
        str(first + 7): {"content": "user", "special": False, "single_word": True, "normalized": False},
        str(first + 8): {"content": "<x>", "special": True, "rstrip": True, "normalized": False},
    }
    added = {key: {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | value
             for key, value in added.items()}  # fmt: skip
    config = {"added_tokens_decoder": added}
    add_transformers(
        "table gpt2", transformers.GPT2Tokenizer, files, {"tokenizer_class": "GPT2Tokenizer", **config}
    )
    add_transformers("table qwen2", transformers.Qwen2Tokenizer, files, {
        "tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", **config,
    })  # fmt: skip
    add_transformers("table roberta", transformers.RobertaTokenizer, files, {"tokenizer_class": "RobertaTokenizer"})


def gguf_steps():
    """Names, flags and expressions of the table in patterns.rs."""
    table = PATTERNS[PATTERNS.index("const TABLE") : PATTERNS.index("pub(crate) fn named")]
    spelled_pre = "SPELLED"
    for names, rest in re.findall(r"\(&\[((?:\"[^\"]+\",?\s*)+)\],\s*(.*?)\),\n(?=    \(&|\];)", table, re.S):
        names = re.findall(r'"([^"]+)"', names)
        if spelled_pre in rest:
            continue
        inner = re.search(r"steps\(&\[(.*)\]\)", rest, re.S)
        steps = []
        for one in re.findall(r'r"[^"]*"|"[^"]*"|[A-Z][A-Z0-9_]+', inner.group(1) if inner else "GPT2"):
            if one.startswith('r"'):
                steps.append(re.sub(r"\\x\{([0-9a-f]+)\}", lambda match: chr(int(match.group(1), 16)), one[2:-1]))
            elif one.startswith('"'):
                steps.append(one[1:-1].encode().decode("unicode_escape") if "\\" in one else one[1:-1])
            elif one == "THREES":
                steps.append(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))")
            elif one == "THREES_OF_WORDS":
                steps.append(r"\d{1,3}(?=(?:\d{3})*\b)")
            else:
                steps.append(pattern(one))
        yield names, "whole(" in rest, "composed(" in rest, steps


def add_gguf_byte_level(vocab, merges):
    """The same expressions under another engine, and the library's own merging."""
    size = len(vocab)
    metadata = {
        "model": "gpt2",
        "tokens": [*vocab, "<|endoftext|>", "<|user|>"],
        "token_type": [1] * size + [3, 4],
        "merges": [" ".join(pair) for pair in merges],
        "eos_token_id": size,
    }
    (OUT / "gpt2.ggml.json").write_text(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")))
    joined = "\n \t ".join(TEXTS[key] for key in sorted(TEXTS) if "special" not in key)
    for names, whole_words, composed, steps in gguf_steps():
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole_words))
        # Onigmo writes an intersection of classes the same way.
        splits = [pre_tokenizers.Split(Regex(step), "isolated") for step in steps]
        byte_step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_step])
        if composed:
            tokenizer.normalizer = tokenizers.normalizers.NFC()
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|endoftext|>"])
        tokenizer.add_tokens([tokenizers.AddedToken("<|user|>", normalized=False)])
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(joined)]
        CASES[f"gguf pre {names[0]}"] = {
            "files": {"tokenizer.ggml.json": "gpt2.ggml.json"},
            "pre": names,
            "joined": tokenizer.encode(joined, add_special_tokens=False).ids,
        }
        print(names[0], len(words))


def add_words():
    found = {}
    for lowercase in (True, False):
        tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=lowercase)
        tokenizer.train_from_iterator(corpus(), vocab_size=900, show_progress=False)
        vocab = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
        name = "words-lower.txt" if lowercase else "words.txt"
        (OUT / name).write_text("\n".join(vocab) + "\n")
        found[lowercase] = vocab
    for name, source, config in [
        ("lower", "words-lower.txt", {"do_lower_case": True}),
        ("lower accents", "words-lower.txt", {"do_lower_case": True, "strip_accents": False}),
        ("cased", "words.txt", {"do_lower_case": False}),
        ("cased joined", "words.txt", {"do_lower_case": False, "tokenize_chinese_chars": False}),
    ]:
        config = {"tokenizer_class": "BertTokenizer", **config}
        add_transformers(f"words {name}", transformers.BertTokenizer, {"vocab.txt": source}, config)
    for lowercase, vocab in found.items():
        add_gguf_words("lower" if lowercase else "cased", vocab)


def add_gguf_words(name, vocab):
    def text(token):
        return token[2:] if token.startswith("##") else token if token.startswith("[") and len(token) > 1 else "▁" + token

    special = [index for index, token in enumerate(vocab) if token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    index = vocab.index
    metadata = {
        "model": "bert",
        "tokens": [text(token) for token in vocab],
        "token_type": [3 if at in special else 1 for at in range(len(vocab))],
        "bos_token_id": index("[CLS]"), "seperator_token_id": index("[SEP]"), "unknown_token_id": index("[UNK]"),
        "padding_token_id": index("[PAD]"), "mask_token_id": index("[MASK]"),
    }  # fmt: skip
    (OUT / f"bert-{name}.ggml.json").write_text(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")))
    CASES[f"gguf bert {name}"] = {
        "files": {"tokenizer.ggml.json": f"bert-{name}.ggml.json"},
        "texts": CASES[f"words {name}"]["texts"],
    }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    add_sentencepiece()
    vocab, merges = byte_level()
    add_tiktoken(vocab)
    add_tables(vocab, merges)
    add_gguf_byte_level(vocab, merges)
    add_words()
    made_by = [f"{module.__name__} {module.__version__}" for module in (sentencepiece, tokenizers, transformers)]
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(case, ensure_ascii=False, separators=(',', ':'))}"
        for name, case in CASES.items()
    )
    texts_line = json.dumps(TEXTS)
    (OUT / "cases.json").write_text(f'{{"made by": {json.dumps(made_by)},\n"texts": {texts_line},\n"cases": {{\n{lines}\n}}}}\n')


main()
