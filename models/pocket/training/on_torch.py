"""What training asks of PyTorch: one GPU, compiled and in bf16 where that serves, or a CPU."""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = DEVICE == "cuda"
torch.set_float32_matmul_precision("high")

no_gradients = torch.no_grad
sqrt = torch.sqrt
silu = F.silu
linear = F.linear
stack = torch.stack


def array(values):
    return torch.from_numpy(values).to(DEVICE, non_blocking=True)


def parameter(values):
    return array(values.copy()).requires_grad_()


def assign(weights, name, value):
    weights[name].data.copy_(value)


def copy(x):
    return x.detach().clone()


def zeros_like(x):
    return torch.zeros_like(x, requires_grad=False)


def float32(x):
    return x.float()


def rough(x):
    """For products that need few digits: the quickest type."""
    return x.bfloat16()


def like(x, other):
    return x.to(other.dtype)


def cat(parts):
    return torch.cat(parts, -1)


def least(x):
    return x.amin(-1, keepdim=True)


def most(x):
    return x.amax(-1, keepdim=True)


def limited_below(x, least):
    return x.clamp_min(least)


def embed(weight, ids):
    return F.embedding(ids, weight).to(torch.bfloat16 if torch.is_autocast_enabled() else torch.float32)


def rms_norm(x, weight, eps):
    return F.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)


def attend(q, k, v, mask):
    """A block mask is for training on a GPU; truth values serve everywhere."""
    if isinstance(mask, torch.Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


def within(owner):
    """The mask that keeps attention within documents, as truth values; `owner` says which each token belongs to."""
    return (owner[:, None, :] == owner[:, :, None]).tril()[:, None]


def masks(rows, length):
    """The same for batches of one size, in the form that is quickest here."""
    if not ON_GPU:
        return within
    make = torch.compile(create_block_mask)

    def masked(owner):
        inside = lambda b, h, q, k: (q >= k) & (owner[b, q] == owner[b, k])
        return make(inside, rows, None, length, length, device=DEVICE)

    return masked


def cross_entropy(logits, targets):
    """Mean over the targets that are not negative."""
    return F.cross_entropy(logits, targets.long(), ignore_index=-100)


def log_softmax(x):
    return F.log_softmax(x, -1)


def with_gradients(loss_of):
    """A function to the loss and its gradients by name."""
    compute = torch.compile(loss_of) if ON_GPU else loss_of

    def run(weights, *given):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            loss = compute(weights, *given)
        loss.backward()
        gradients = {name: p.grad for name, p in weights.items()}
        for p in weights.values():
            p.grad = None
        return loss.detach(), gradients

    return run


def settle(*what):
    """Nothing waits to be computed."""


def numpy(x):
    return x.detach().float().cpu().numpy()


def save(weights, path):
    save_file({name: p.detach().bfloat16().contiguous().cpu() for name, p in weights.items()}, path, metadata={"format": "pt"})


def load(path):
    return {name: value.float().numpy() for name, value in load_file(path).items()}
