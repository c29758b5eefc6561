"""What lucid calls `nn`: its constructor `ResNet` and the blocks that go into it.

>>> import resnet_rs.nn as nn
>>> nn.ResNet(block=nn.BasicBlock, layers=[3, 4, 6, 3], num_classes=1000).output_shape
(None, 1000)
"""

from __future__ import annotations

from .blocks import BasicBlock, Bottleneck, PreActBottleneck
from .models.lucid import ResNet

__all__ = ["BasicBlock", "Bottleneck", "PreActBottleneck", "ResNet"]
