"""Trains a shape for so many seconds. One GPU, or a CPU for the toy.

The schedule follows the clock: warm-up, a plateau, and a linear descent over the last part. Matrices are trained with
Muon (orthogonalised momentum), the rest with Adam. Near the end every second step sees weights rounded to 4 bits, so that
quantised copies keep their skills.
"""

import argparse
import json
import pathlib
import queue as queues
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import stream
from model import SHAPES, Pocket, masks

PAD, END = "<|endoftext|>", "<|im_end|>"
DESCENT = 0.45
ROUNDED_FROM = 0.75
QUANTISING_GROUP = 64
# Of the tokens in a batch, those whose loss is computed; more are left out by chance.
LEARNT_SHARE = 0.28


def orthogonal(g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrices, for a stack of them."""
    x = g.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised, for all matrices of one shape at a time."""

    def __init__(self, matrices, lr, momentum=0.95, decay=0.02):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        shapes = sorted({tuple(p.shape) for p in matrices})
        self.groups = [[p for p in matrices if tuple(p.shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]

    @torch.no_grad()
    def step(self, scale):
        for group, buffer in zip(self.groups, self.buffers):
            g = torch.stack([p.grad for p in group]).float()
            buffer.lerp_(g, 1 - self.momentum)
            update = orthogonal(g.lerp(buffer, self.momentum)).float()
            lr = self.lr * scale
            size = 0.2 * max(g.shape[-2:]) ** 0.5
            torch._foreach_mul_(group, 1 - lr * self.decay)
            torch._foreach_add_(group, list((update * (-lr * size)).unbind(0)))


def rounded(w):
    """What 4 bits in groups make of a matrix."""
    groups = w.view(w.shape[0], -1, QUANTISING_GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-8)
    return (((groups - low) / scale).round() * scale + low).view_as(w)


class Batches:
    """Fresh rows as long as there are some, else seen ones: the device never waits."""

    def __init__(self, queue, device, rows, capacity):
        self.queue, self.device, self.rows, self.capacity = queue, device, rows, capacity
        self.pool, self.filled, self.fresh, self.total = None, 0, 0, 0

    def take_in(self, wait):
        try:
            shard = self.queue.get(timeout=60 if wait else 0.0001)
        except queues.Empty:
            return False
        parts = [torch.from_numpy(part.astype("int32")).to(self.device, non_blocking=True) for part in shard]
        count = len(parts[0])
        if self.pool is None:
            self.pool = [torch.zeros(self.capacity, *part.shape[1:], dtype=torch.int32, device=self.device) for part in parts]
        start = self.total % self.capacity
        for pool, part in zip(self.pool, parts):
            pool[start : start + count] = part
        self.total += count
        self.fresh += count
        self.filled = min(self.total, self.capacity)
        return True

    def next(self):
        while self.filled < self.rows:
            self.take_in(True)
        while self.fresh < self.rows and self.take_in(False):
            pass
        if self.fresh >= self.rows:
            first = (self.total - self.fresh) % self.capacity
            index = (torch.arange(self.rows, device=self.device) + first) % self.capacity
            self.fresh -= self.rows
        else:
            index = torch.randint(self.filled, (self.rows,), device=self.device)
        return [pool[index] for pool in self.pool]


def run(given):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(given.seed)
    torch.set_float32_matmul_precision("high")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(given.tokenizer / "tokenizer.json"))
    queue = stream.start(str(given.tokenizer / "tokenizer.json"), given.workers, given.length, tokenizer.token_to_id(PAD), given.seed)
    shape = SHAPES[given.shape]
    shape.vocabulary = tokenizer.get_vocab_size()
    model = Pocket(shape).to(device)
    if given.start:
        model.load_state_dict({name: value.float() for name, value in load_file(given.start / "model.safetensors").items()})
    print(given.shape, sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    rounding = matrices + [model.model.embed_tokens.weight]
    muon = Muon(matrices, given.lr)
    adam = torch.optim.AdamW(others, lr=given.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=device == "cuda")
    batches = Batches(queue, device, given.rows, given.pool)
    mask_of = masks(device, given.rows, given.length)
    learnt_max = int(given.rows * given.length * LEARNT_SHARE)

    def hidden_loss(ids, mask, index, targets):
        return model.loss(model(ids, mask).flatten(0, 1)[index], targets)

    compute = torch.compile(hidden_loss) if device == "cuda" else hidden_loss
    began, step, shown, tokens = time.time(), 0, time.time(), 0
    started = None
    while True:
        # Compiling does not count.
        now = time.time()
        done = 0 if started is None else (now - started) / given.seconds
        if done >= 1:
            break
        scale = min(1.0, (step + 1) / 200) * min(1.0, (1 - done) / DESCENT + 0.005)
        for group in adam.param_groups:
            group["lr"] = given.lr * scale
        ids, owner, learnt = batches.next()
        index = learnt.flatten().nonzero().flatten()
        if len(index) > learnt_max:
            index = index[torch.randperm(len(index), device=device)[:learnt_max]]
        targets = torch.full((learnt_max,), -100, device=device)
        targets[: len(index)] = ids.flatten()[index + 1]
        index = F.pad(index, (0, learnt_max - len(index)))
        kept = None
        if done > ROUNDED_FROM and step % 2:
            kept = [p.detach().clone() for p in rounding]
            with torch.no_grad():
                torch._foreach_copy_(rounding, [rounded(p) for p in rounding])
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = compute(ids, mask_of(owner), index, targets)
        loss.backward()
        if kept:
            with torch.no_grad():
                torch._foreach_copy_(rounding, kept)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step(scale)
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        tokens += ids.numel()
        if step == 5:
            loss.item()
            started = time.time()
            print(f"compiled after {started - began:.0f} s", flush=True)
        if step % given.every == 0:
            value, now = loss.item(), time.time()
            rate = given.every * ids.numel() / (now - shown)
            print(
                f"step {step} loss {value:.4f} {rate / 1e6:.2f} Mtok/s done {done:.3f} fresh {batches.total} rows "
                f"learnt {int((targets >= 0).sum())}", flush=True,
            )
            shown = now
            if given.save_every and step % (given.every * given.save_every) == 0:
                save(model, given, tokenizer, tokens)
    save(model, given, tokenizer, tokens)
    print(f"end: {step} steps, {tokens / 1e6:.0f} M tokens, {batches.total} fresh rows, {time.time() - began:.0f} s", flush=True)


def save(model, given, tokenizer, tokens):
    given.out.mkdir(parents=True, exist_ok=True)
    config = model.shape.config()
    config["eos_token_id"], config["pad_token_id"] = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    ends = [config["eos_token_id"], config["pad_token_id"]]
    generation = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "eos_token_id": ends, "pad_token_id": ends[1]}
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (given.out / name).write_text(json.dumps(value, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (given.out / name).write_bytes((given.tokenizer / name).read_bytes())
    new = given.out / "model.safetensors.new"
    save_file(model.tensors(), new, metadata={"format": "pt"})
    new.rename(given.out / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="pocket")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--start", type=pathlib.Path, help="go on from this checkpoint")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--pool", type=int, default=65536, help="rows that are kept to be met again")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    run(parser.parse_args())
