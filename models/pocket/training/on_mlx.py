"""What training asks of MLX: where PyTorch is too large to install, as for a toy's training among the tests."""

import contextlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np

no_gradients = contextlib.nullcontext
sqrt = mx.sqrt
silu = nn.silu
stack = mx.stack
zeros_like = mx.zeros_like
array = mx.array
parameter = mx.array


def assign(weights, name, value):
    weights[name] = value


def copy(x):
    return x


def float32(x):
    return x.astype(mx.float32)


def rough(x):
    """For products that need few digits: the quickest type, on a processor the one at hand."""
    return x


def like(x, other):
    return x.astype(other.dtype)


def cat(parts):
    return mx.concatenate(parts, -1)


def least(x):
    return x.min(-1, keepdims=True)


def most(x):
    return x.max(-1, keepdims=True)


def limited_below(x, least):
    return mx.maximum(x, least)


def linear(x, weight):
    return x @ weight.T


def embed(weight, ids):
    return weight[ids]


def rms_norm(x, weight, eps):
    return mx.fast.rms_norm(x, weight, eps)


def attend(q, k, v, mask):
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def within(owner):
    """The mask that keeps attention within documents, as truth values; `owner` says which each token belongs to."""
    causal = mx.tri(owner.shape[-1], dtype=mx.bool_)
    return ((owner[:, None, :] == owner[:, :, None]) & causal)[:, None]


def masks(rows, length):
    """The same for batches of one size."""
    return within


def cross_entropy(logits, targets):
    """Mean over the targets that are not negative."""
    counts = targets >= 0
    each = nn.losses.cross_entropy(logits, mx.maximum(targets, 0))
    return (each * counts).sum() / counts.sum()


def log_softmax(x):
    return x - mx.logsumexp(x, axis=-1, keepdims=True)


def with_gradients(loss_of):
    """A function to the loss and its gradients by name."""
    return mx.value_and_grad(loss_of)


def settle(*what):
    mx.eval(*what)


def numpy(x):
    return np.array(x.astype(mx.float32))


def save(weights, path):
    mx.save_safetensors(str(path), {name: value.astype(mx.bfloat16) for name, value in weights.items()}, metadata={"format": "pt"})


def load(path):
    return {name: numpy(value) for name, value in mx.load(str(path), format="safetensors").items()}
