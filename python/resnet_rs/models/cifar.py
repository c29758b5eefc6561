"""The CIFAR-10 networks of He et al. 2015 (arXiv:1512.03385), section 4.2: 6n + 2 layers of 16, 32 and 64 filters.

A 3x3 stem of stride 1 without a pool, three stages of n basic blocks, and shortcuts without weights ("option A": every
second position, channels of zeros around). Input (32, 32, 3), 10 classes, softmax, all of which are arguments.

>>> ResNet20().trainable_params
269722

`ResNet20(weights="cifar10")` is trained: these weights come with the package.

>>> ResNet20(weights="cifar10").classes[:3]
('airplane', 'automobile', 'bird')
"""

from __future__ import annotations

from resnet_rs.config import ResNetConfig

from .resnet import ResNetModel, variant

__all__ = ["ResNet20", "ResNet32", "ResNet44", "ResNet56", "ResNet110"]


def _cifar(depth: int) -> type[ResNetModel]:
    blocks = (depth - 2) // 6
    config = ResNetConfig(
        block_type="basic_block",
        num_blocks=(blocks,) * 3,
        conv_filters=(16,),
        conv_kernel_sizes=(3,),
        stem_stride=1,
        stem_pool=False,
        num_filters=(16, 32, 64),
        num_strides=(1, 2, 2),
        shortcut="A",
    )
    return variant(
        f"ResNet{depth}",
        config,
        "cifar",
        default_shape=(32, 32, 3),
        default_classes=10,
        module=__name__,
    )


ResNet20, resnet20 = (_cifar(20),) * 2
ResNet32, resnet32 = (_cifar(32),) * 2
ResNet44, resnet44 = (_cifar(44),) * 2
ResNet56, resnet56 = (_cifar(56),) * 2
ResNet110, resnet110 = (_cifar(110),) * 2
