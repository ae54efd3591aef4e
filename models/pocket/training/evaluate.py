"""Answers the held-out sets greedily with transformers' Qwen3, and judges.

The test suite asks our own engine the same; this one is the second opinion, and quick while training.
"""

import argparse
import json
import pathlib
import re
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS_MAX = 220


def rounded(w, bits, group=64):
    """Affine rounding in groups, about as MLX does it."""
    groups = w.view(w.shape[0], -1, group)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-8)
    return (((groups - low) / scale).round() * scale + low).view_as(w)


def content_of(text):
    return text.split("</think>")[-1].strip() if "</think>" in text else text.strip()


def calls_in(text):
    return [json.loads(found) for found in re.findall(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", text, re.S)]


def is_right(expect, text):
    kind, value, said = expect["kind"], expect["value"], content_of(text)
    try:
        if kind == "exact":
            return said == value.strip()
        if kind == "contains":
            return all(part.lower() in said.lower() for part in value)
        if kind == "json":
            return json.loads(said) == value
        if kind == "call":
            return calls_in(text) == [value]
        if kind == "calls":
            return calls_in(text) == value
        if kind == "number":
            return re.findall(r"-?\d+", said)[-1:] == [value]
        if kind == "ends":
            # The number itself, not the end of a longer one.
            return re.search(r"(?<![\d-])" + re.escape(value) + "$", said) is not None
        if kind == "has":
            return value in re.findall(r"-?\d+", said)
        if kind == "last":
            return re.findall(r"\w+", said)[-1:] == [value]
    except ValueError:
        return False
    raise ValueError(f"unknown kind {kind}")


def answers(model, tokenizer, cases, tokens_a_batch):
    """Batches of prompts of about equal length, whatever their skill."""
    texts = [
        tokenizer.apply_chat_template(
            case["messages"], tools=case.get("tools"), tokenize=False, add_generation_prompt=True, enable_thinking=case["think"]
        )
        for case in cases
    ]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    out = [None] * len(texts)
    while order:
        longest = len(texts[order[-1]]) // 2 + TOKENS_MAX
        count = max(1, min(len(order), tokens_a_batch // longest))
        chosen, order = order[-count:], order[:-count]
        given = tokenizer([texts[index] for index in chosen], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        given = {name: given[name].to(model.device) for name in ("input_ids", "attention_mask")}
        made = model.generate(**given, max_new_tokens=TOKENS_MAX, do_sample=False, temperature=None, top_p=None, pad_token_id=tokenizer.pad_token_id)
        for index, ids in zip(chosen, made):
            out[index] = clean(tokenizer, ids[given["input_ids"].shape[1] :])
    return out


def clean(tokenizer, ids):
    return tokenizer.decode(ids).split("<|im_end|>")[0].split("<|endoftext|>")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("sets", type=pathlib.Path)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--tokens-a-batch", type=int, default=400_000)
    parser.add_argument("--misses", type=int, default=0, help="how many wrong answers of a skill to show")
    parser.add_argument("--skills", nargs="*")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--bits", type=int, help="round the weights to so many bits first")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).to(device).eval()
    if given.bits:
        for p in model.parameters():
            if p.ndim == 2:
                p.data.copy_(rounded(p.data.float(), given.bits))
    cases = []
    for path in sorted(given.sets.glob("*.jsonl")):
        if not given.skills or path.stem in given.skills:
            cases += [dict(json.loads(line), skill=path.stem) for line in path.read_text().splitlines()[: given.cases]]
    began = time.time()
    with torch.inference_mode():
        said = answers(model, tokenizer, cases, given.tokens_a_batch)
    marks, wrong = {}, {}
    for case, text in zip(cases, said):
        right = is_right(case["expect"], text)
        marks.setdefault(case["skill"], []).append((right, case["think"]))
        if not right:
            wrong.setdefault(case["skill"], []).append((case, text))
    for skill, found in marks.items():
        share = lambda some: f"{100 * sum(some) / max(len(some), 1):5.1f} %"
        both = [[right for right, think in found if think is way] for way in (True, False)]
        print(f"{skill:24} {share([right for right, _ in found])}   thinking {share(both[0])}   quiet {share(both[1])}   of {len(found)}")
        for case, text in wrong.get(skill, [])[: given.misses]:
            asked, wanted = case["messages"][-1]["content"][-120:], json.dumps(case["expect"]["value"], ensure_ascii=False)
            print("   ", json.dumps(asked, ensure_ascii=False), "→", json.dumps(text[-160:], ensure_ascii=False), "wanted", wanted)
    total = [right for found in marks.values() for right, _ in found]
    print(f"all {100 * sum(total) / len(total):.2f} % of {len(total)}, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
