"""Qwen3, dense (arXiv:2505.09388): grouped queries, RMSNorm on queries and keys, SwiGLU, tied embeddings.

Parameters bear the checkpoint's names, so that saving is writing them down.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


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


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


def linear(inputs, outputs, std):
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s, std = s, s.hidden**-0.5
        self.q_proj = linear(s.hidden, s.heads * s.head_dim, std)
        self.k_proj = linear(s.hidden, s.kv_heads * s.head_dim, std)
        self.v_proj = linear(s.hidden, s.kv_heads * s.head_dim, std)
        self.o_proj = linear(s.heads * s.head_dim, s.hidden, std / (2 * s.layers) ** 0.5)
        self.q_norm, self.k_norm = Norm(s.head_dim, s.eps), Norm(s.head_dim, s.eps)

    def forward(self, x, angles, mask):
        rows, length, _ = x.shape
        heads = lambda y: y.view(rows, length, -1, self.s.head_dim).transpose(1, 2)
        q = rotate(self.q_norm(heads(self.q_proj(x))), angles)
        k = rotate(self.k_norm(heads(self.k_proj(x))), angles)
        out = attend(q, k, heads(self.v_proj(x)), mask)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


def attend(q, k, v, mask):
    """A block mask is for the GPU; a mask of truth values serves on a CPU."""
    if isinstance(mask, torch.Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


def masks(device, rows, length):
    """A function from the documents of a batch to the mask that keeps attention within them."""
    if device == "cpu":
        return lambda owner: (owner[:, None, :] == owner[:, :, None]).tril()[:, None]
    make = torch.compile(create_block_mask)

    def masked(owner):
        inside = lambda b, h, q, k: (q >= k) & (owner[b, q] == owner[b, k])
        return make(inside, rows, None, length, length, device=device)

    return masked


def rotate(x, angles):
    cos, sin = angles
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Gated(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = linear(s.hidden, s.inner, s.hidden**-0.5)
        self.up_proj = linear(s.hidden, s.inner, s.hidden**-0.5)
        self.down_proj = linear(s.inner, s.hidden, s.inner**-0.5 / (2 * s.layers) ** 0.5)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(s.hidden, s.eps), Norm(s.hidden, s.eps)
        self.self_attn, self.mlp = Attention(s), Gated(s)

    def forward(self, x, angles, mask):
        x = x + self.self_attn(self.input_layernorm(x), angles, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocabulary, s.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=s.hidden**-0.5)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = Norm(s.hidden, s.eps)


class Pocket(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.shape, self.model = s, Decoder(s)
        frequency = s.theta ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        angle = torch.outer(torch.arange(s.context).float(), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, mask):
        """[rows, length] to the last hidden states; the mask is what `masks` makes."""
        x = self.model.embed_tokens(ids).to(torch.bfloat16 if ids.is_cuda else torch.float32)
        angles = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.model.layers:
            x = layer(x, angles, mask)
        return self.model.norm(x)

    def loss(self, hidden, targets):
        """Mean over the targets that are not -100."""
        logits = F.linear(hidden, self.model.embed_tokens.weight)
        return F.cross_entropy(logits.float(), targets, ignore_index=-100)

    def tensors(self):
        return {name: value.detach().to(torch.bfloat16).contiguous().cpu() for name, value in self.state_dict().items()}
