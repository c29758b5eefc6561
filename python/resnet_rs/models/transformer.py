"""Transformer layers on maps whose positions are the tokens; nothing is ever reshaped.

Weight names are timm's where it has the same layer (`norm1`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`); queries, keys
and values have a projection each (`attn.query` ...). Source: Dosovitskiy et al. 2020 (arXiv:2010.11929).
"""

from __future__ import annotations

from dataclasses import dataclass

from resnet_rs.checks import check_fraction, check_int, check_size
from resnet_rs.config import MAX_BLOCKS
from resnet_rs.errors import ArgumentError
from resnet_rs.graph import Builder, Tensor

__all__ = ["TransformerConfig", "block"]

# Of all layer norms.
EPSILON = 1e-6


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer.

    Args:
        num_vit_layers: blocks of the encoder.
        num_heads: heads of every attention; a divisor of `embed_dim`.
        num_queries: learned queries of the decoder.
        embed_dim: channels of a token.
        mlp_dim: hidden units of the blocks' two dense layers.
        dropout_rate: what training drops behind each attention and each of the blocks' dense layers.
    """

    num_vit_layers: int = 12
    num_heads: int = 8
    num_queries: int = 100
    embed_dim: int = 512
    mlp_dim: int = 1024
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        check_int("num_vit_layers", self.num_vit_layers, 1, MAX_BLOCKS)
        for name in ("num_heads", "num_queries", "embed_dim", "mlp_dim"):
            check_size(name, getattr(self, name))
        check_fraction("dropout_rate", self.dropout_rate)
        if self.embed_dim % self.num_heads:
            raise ArgumentError(f"num_heads: expected a divisor of embed_dim={self.embed_dim}, got {self.num_heads}")


def block(
    b: Builder,
    x: Tensor,
    config: TransformerConfig,
    *,
    memory: Tensor | None = None,
    visible: Tensor | None = None,
    mask: str = "none",
) -> Tensor:
    """x + attention(norm(x)), then x + mlp(norm(x)): a map of the size and channels of `x`.

    Keys and values come from `memory` as it is, or without one from the normed `x` itself; `visible` and `mask` are
    those of `Builder.attention`.
    """
    rate = config.dropout_rate
    normed = b.layer_norm(x, epsilon=EPSILON, name="norm1")
    source = normed if memory is None else memory
    with b.scope("attn"):
        query = b.dense(normed, config.embed_dim, name="query")
        key = b.dense(source, config.embed_dim, name="key")
        value = b.dense(source, config.embed_dim, name="value")
        seen = b.attention(query, key, value, config.num_heads, visible=visible, mask=mask)
        x = b.add(b.dropout(b.dense(seen, config.embed_dim, name="proj"), rate), x)
    normed = b.layer_norm(x, epsilon=EPSILON, name="norm2")
    with b.scope("mlp"):
        hidden = b.dropout(b.activation(b.dense(normed, config.mlp_dim, name="fc1"), "gelu"), rate)
        return b.add(b.dropout(b.dense(hidden, config.embed_dim, name="fc2"), rate), x)
