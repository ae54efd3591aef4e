"""Trains a shape for so many seconds, on one GPU, or so many steps, which a CPU can do for the toy.

The schedule: warm-up, a plateau, and a linear descent over the last part; it follows the clock or the steps. Matrices are
trained with Muon (orthogonalised momentum), the rest with Adam. Near the end every second step sees weights rounded to 4
bits, so that quantised copies keep their skills.
"""

import argparse
import importlib
import importlib.util
import json
import pathlib
import time

import stream
from batches import Batches
from model import EMBEDDING, SHAPES, angles, hidden, initial, logits
from optimisers import Adam, Muon

PAD, END = "<|endoftext|>", "<|im_end|>"
DESCENT = 0.45
ROUNDED_FROM = 0.75
QUANTISING_GROUP = 64
# The clock starts after these: compiling does not count.
STEPS_BEFORE_CLOCK = 5
# Whose mean `--loss-max` limits, of those that are shown.
LAST_LOSSES = 4
BACKENDS = ("torch", "mlx")


def backend(name):
    """What computes; without a name, the first of those that are installed."""
    name = name or next((name for name in BACKENDS if importlib.util.find_spec(name)), BACKENDS[0])
    return importlib.import_module(f"on_{name}")


def rounded(ops, w):
    """What 4 bits in groups make of a matrix."""
    groups = w.reshape(w.shape[0], -1, QUANTISING_GROUP)
    low, high = ops.least(groups), ops.most(groups)
    scale = ops.limited_below((high - low) / 15, 1e-8)
    return (((groups - low) / scale).round() * scale + low).reshape(w.shape)


class Trainer:
    """The weights, and what a step does to them."""

    def __init__(self, ops, shape, start, given):
        self.ops, self.shape = ops, shape
        self.weights = {name: ops.parameter(value) for name, value in start.items()}
        matrices = [name for name, value in start.items() if value.ndim == 2 and name != EMBEDDING]
        others = [name for name in start if name not in matrices]
        self.rounding = [*matrices, EMBEDDING]
        self.muon, self.adam = Muon(ops, self.weights, matrices, given.lr), Adam(ops, self.weights, others, given.lr)
        turns = [ops.array(side) for side in angles(shape, given.length)]
        self.mask_of = ops.masks(given.rows, given.length)

        def loss_of(weights, ids, mask, index, targets):
            states = hidden(ops, shape, weights, ids, turns, mask)
            return ops.cross_entropy(logits(ops, weights, states.reshape(-1, shape.hidden)[index]), targets)

        self.compute = ops.with_gradients(loss_of)

    def step(self, batch, scale, rounding):
        ops = self.ops
        ids, owner, index, targets = map(ops.array, batch)
        kept = {name: ops.copy(self.weights[name]) for name in self.rounding} if rounding else {}
        with ops.no_gradients():
            for name in kept:
                ops.assign(self.weights, name, rounded(ops, self.weights[name]))
        loss, gradients = self.compute(self.weights, ids, self.mask_of(owner), index, targets)
        with ops.no_gradients():
            for name, value in kept.items():
                ops.assign(self.weights, name, value)
            self.muon.step(self.weights, gradients, scale)
            self.adam.step(self.weights, gradients, scale)
        ops.settle(loss, self.weights, self.muon.buffers, self.adam.state())
        return loss


def run(given):
    from tokenizers import Tokenizer

    ops = backend(given.backend)
    path = str(given.tokenizer / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    queue = stream.start(path, given.workers, given.length, tokenizer.token_to_id(PAD), given.seed)
    shape = SHAPES[given.shape]
    shape.vocabulary = tokenizer.get_vocab_size()
    start = ops.load(given.start / "model.safetensors") if given.start else initial(shape, given.seed)
    print(given.shape, sum(value.size for value in start.values()), "parameters", flush=True)
    trainer = Trainer(ops, shape, start, given)
    batches = Batches(queue, given.rows, given.length, given.pool, given.steps is not None, given.seed)
    began, step, shown, tokens, losses = time.time(), 0, time.time(), 0, []
    started = None
    while True:
        if given.steps is not None:
            done = step / given.steps
        else:
            done = 0 if started is None else (time.time() - started) / given.seconds
        if done >= 1:
            break
        scale = min(1.0, (step + 1) / given.warm_up) * min(1.0, (1 - done) / DESCENT + 0.005)
        batch = batches.next()
        loss = trainer.step(batch, scale, done > ROUNDED_FROM and step % 2 == 1)
        step += 1
        tokens += batch[0].size
        if step == STEPS_BEFORE_CLOCK:
            loss.item()
            started = time.time()
            print(f"compiled after {started - began:.0f} s", flush=True)
        if step % given.every == 0:
            losses.append(loss.item())
            rate = given.every * batch[0].size / (time.time() - shown)
            print(
                f"step {step} loss {losses[-1]:.4f} {rate / 1e6:.3f} Mtok/s done {done:.3f} fresh {batches.total} rows "
                f"learnt {int((batch[3] >= 0).sum())}", flush=True,
            )
            shown = time.time()
            if given.save_every and step % (given.every * given.save_every) == 0:
                save(trainer, given, tokenizer)
    save(trainer, given, tokenizer)
    print(f"end: {step} steps, {tokens / 1e6:.1f} M tokens, {batches.total} fresh rows, {time.time() - began:.0f} s", flush=True)
    last = losses[-LAST_LOSSES:]
    if given.loss_max is not None and not sum(last) <= given.loss_max * len(last):
        raise SystemExit(f"error: the last losses are {last}, above {given.loss_max} in the mean")


def save(trainer, given, tokenizer):
    given.out.mkdir(parents=True, exist_ok=True)
    config = trainer.shape.config()
    config["eos_token_id"], config["pad_token_id"] = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    ends = [config["eos_token_id"], config["pad_token_id"]]
    generation = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "eos_token_id": ends, "pad_token_id": ends[1]}
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (given.out / name).write_text(json.dumps(value, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (given.out / name).write_bytes((given.tokenizer / name).read_bytes())
    new = given.out / "new.safetensors"
    trainer.ops.save(trainer.weights, new)
    new.rename(given.out / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="pocket")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--backend", choices=BACKENDS, help="what computes; PyTorch where it is installed")
    parser.add_argument("--start", type=pathlib.Path, help="go on from this checkpoint")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--steps", type=int, help="so many steps instead, on fresh rows only: the same weights every time")
    parser.add_argument("--warm-up", type=int, default=200, help="steps to the full rate")
    parser.add_argument("--loss-max", type=float, help="fail where the mean of the last losses shown is above this")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--pool", type=int, default=65536, help="rows that are kept to be met again")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    run(parser.parse_args())
