"""The blocks of `resnet_rs.models.ResNet`, where lucid has them.

>>> from resnet_rs.models.blocks import BasicBlock
>>> BasicBlock.expansion
1
"""

from __future__ import annotations

from resnet_rs.blocks import BasicBlock, Bottleneck, PreActBottleneck

__all__ = ["BasicBlock", "Bottleneck", "PreActBottleneck"]
