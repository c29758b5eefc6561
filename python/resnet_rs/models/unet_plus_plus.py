"""UNet++ on the encoders of this package.

Source: Zhou et al. 2018 (arXiv:1807.10165), in medicai's arrangement: filters run from the shallowest row on, the last
node, of half the input's size, is enlarged before the head. Where the head is a 1x1 convolution it runs before that
enlargement: the same numbers from a fraction of the memory.
"""

from __future__ import annotations

from resnet_rs.graph import Builder, Tensor

from .decoder import DecoderConfig, HeadConfig, Level, conv_block, enlarge, head
from .registry import register_segmentor
from .unet import UNetFamily

__all__ = ["UNetPlusPlus"]


class UNetPlusPlus(UNetFamily):
    """UNet++: between encoder and decoder a triangle of nodes, each of which joins all nodes of its size before it.

    Node x_{i}_{j} is of the size of P{i + 1} and has `decoder_filters[i]` channels: the shallowest row has the first.

    >>> UNetPlusPlus(encoder_name="resnet18", input_shape=(64, 64, 3)).count_params()
    20774337
    """

    def _decode(self, b: Builder, levels: list[Level], decoder: DecoderConfig, ending: HeadConfig) -> Tensor:
        rows = [[level.x] for level in levels]
        for column in range(1, len(levels)):
            for row in range(len(levels) - column):
                filters = decoder.filters[row]
                with b.scope(f"decoder.blocks.x_{row}_{column}"):
                    x = enlarge(b, rows[row + 1][column - 1], filters, levels[row + 1].factor, decoder)
                    rows[row].append(conv_block(b, b.concat([x, *rows[row]]), filters, decoder))
        x, factor = rows[0][-1], levels[0].factor
        if decoder.block_type == "upsampling":
            return head(b, x, ending, nearest=factor)
        with b.scope("decoder.bridge"):
            x = enlarge(b, x, decoder.filters[0], factor, decoder)
        return head(b, x, ending)


UNetPlusPlus.__doc__ = f"{UNetPlusPlus.__doc__}{(UNetFamily.__doc__ or '').partition(chr(10))[2]}"

register_segmentor("unet_plus_plus", UNetPlusPlus, aliases=["unet++"])
