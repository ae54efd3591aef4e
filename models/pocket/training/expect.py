"""What the training's own arithmetic, from the weights as they were saved, expects after the prompts of a file.

Writes JSON: for each prompt its text and the likeliest next tokens with their log-probabilities. The engine that is to run
the model must expect the same.
"""

import argparse
import json
import pathlib

import numpy as np
from tokenizers import Tokenizer

from model import SHAPES, angles, hidden, logits
from train import BACKENDS, backend

LIKELIEST = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("prompts", type=pathlib.Path, help="what heldout.py wrote as rendered.json")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="pocket")
    parser.add_argument("--backend", choices=BACKENDS)
    given = parser.parse_args()
    ops, shape = backend(given.backend), SHAPES[given.shape]
    tokenizer = Tokenizer.from_file(str(given.model / "tokenizer.json"))
    weights = {name: ops.array(value) for name, value in ops.load(given.model / "model.safetensors").items()}
    made = []
    for prompt in json.loads(given.prompts.read_text()):
        ids = np.array([tokenizer.encode(prompt["text"], add_special_tokens=False).ids], np.int32)
        length = ids.shape[1]
        turns = [ops.array(side) for side in angles(shape, length)]
        mask = ops.within(ops.array(np.zeros_like(ids)))
        states = hidden(ops, shape, weights, ops.array(ids), turns, mask)
        chances = ops.numpy(ops.log_softmax(logits(ops, weights, states[0, -1:])))[0]
        likely = np.argsort(-chances)[:LIKELIEST]
        next_tokens = [{"token": tokenizer.decode([int(token)], skip_special_tokens=False), "logprob": float(chances[token])} for token in likely]
        made.append({"text": prompt["text"], "next": next_tokens})
    given.out.write_text(json.dumps(made, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
