"""Qwen3, dense (arXiv:2505.09388): grouped queries, RMSNorm on queries and keys, SwiGLU, tied embeddings.

Weights are a dictionary by the checkpoint's names. The arithmetic is written once; `ops` is what computes it, `on_torch` or
`on_mlx`.
"""

from dataclasses import dataclass

import numpy as np

EMBEDDING = "model.embed_tokens.weight"


@dataclass
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    head_dim: int = 64
    vocabulary: int = 4096
    context: int = 4096
    theta: float = 100_000.0
    eps: float = 1e-6

    def config(self):
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "rope_theta": self.theta,
            "rope_scaling": None,
            "rms_norm_eps": self.eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "use_cache": True,
        }


SHAPES = {
    "pocket": Shape(hidden=320, layers=8, heads=6, kv_heads=2, inner=832),
    "pocket-draft": Shape(hidden=128, layers=4, heads=2, kv_heads=2, inner=384),
    "toy": Shape(hidden=64, layers=2, heads=2, kv_heads=1, inner=128),
}


def initial(s, seed):
    """Where training begins."""
    rng = np.random.default_rng(seed)
    linear = lambda rows, width, std: (rng.standard_normal((rows, width)) * std).astype(np.float32)
    ones = lambda width: np.ones(width, np.float32)
    deep = (2 * s.layers) ** -0.5
    w = {EMBEDDING: linear(s.vocabulary, s.hidden, s.hidden**-0.5), "model.norm.weight": ones(s.hidden)}
    for number in range(s.layers):
        layer = {
            "input_layernorm": ones(s.hidden),
            "self_attn.q_proj": linear(s.heads * s.head_dim, s.hidden, s.hidden**-0.5),
            "self_attn.k_proj": linear(s.kv_heads * s.head_dim, s.hidden, s.hidden**-0.5),
            "self_attn.v_proj": linear(s.kv_heads * s.head_dim, s.hidden, s.hidden**-0.5),
            "self_attn.o_proj": linear(s.hidden, s.heads * s.head_dim, s.hidden**-0.5 * deep),
            "self_attn.q_norm": ones(s.head_dim),
            "self_attn.k_norm": ones(s.head_dim),
            "post_attention_layernorm": ones(s.hidden),
            "mlp.gate_proj": linear(s.inner, s.hidden, s.hidden**-0.5),
            "mlp.up_proj": linear(s.inner, s.hidden, s.hidden**-0.5),
            "mlp.down_proj": linear(s.hidden, s.inner, s.inner**-0.5 * deep),
        }
        w |= {f"model.layers.{number}.{name}.weight": value for name, value in layer.items()}
    return w


def angles(s, length):
    """Cosines and sines of the rotations, [length, half a head]."""
    frequency = s.theta ** (-np.arange(0, s.head_dim, 2, dtype=np.float32) / s.head_dim)
    angle = np.outer(np.arange(length, dtype=np.float32), frequency)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(ops, x, turns):
    cos, sin = turns
    half, wide = x.shape[-1] // 2, ops.float32(x)
    a, b = wide[..., :half], wide[..., half:]
    return ops.like(ops.cat([a * cos - b * sin, b * cos + a * sin]), x)


def attention(ops, s, w, x, turns, mask):
    rows, length, _ = x.shape
    heads = lambda name: ops.linear(x, w(name)).reshape(rows, length, -1, s.head_dim).swapaxes(1, 2)
    q = rotate(ops, ops.rms_norm(heads("q_proj"), w("q_norm"), s.eps), turns)
    k = rotate(ops, ops.rms_norm(heads("k_proj"), w("k_norm"), s.eps), turns)
    out = ops.attend(q, k, heads("v_proj"), mask)
    return ops.linear(out.swapaxes(1, 2).reshape(rows, length, -1), w("o_proj"))


def gated(ops, w, x):
    return ops.linear(ops.silu(ops.linear(x, w("gate_proj"))) * ops.linear(x, w("up_proj")), w("down_proj"))


def hidden(ops, s, w, ids, turns, mask):
    """[rows, length] to the last hidden states; the mask is what `ops.masks` makes."""
    x = ops.embed(w[EMBEDDING], ids)
    for number in range(s.layers):
        of = lambda part: lambda name: w[f"model.layers.{number}.{part}{name}.weight"]
        layer = of("")
        x = x + attention(ops, s, of("self_attn."), ops.rms_norm(x, layer("input_layernorm"), s.eps), turns, mask)
        x = x + gated(ops, of("mlp."), ops.rms_norm(x, layer("post_attention_layernorm"), s.eps))
    return ops.rms_norm(x, w["model.norm.weight"], s.eps)


def logits(ops, w, states):
    return ops.float32(ops.linear(states, w[EMBEDDING]))
