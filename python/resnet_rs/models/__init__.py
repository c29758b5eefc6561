"""Constructors of all models, and the registry that finds them by name.

>>> import resnet_rs as rr
>>> rr.models.ResNet50(input_shape=(224, 224, 3)).count_params()
25610152
"""

from resnet_rs.model import Model

from .cifar import ResNet20, ResNet32, ResNet44, ResNet56, ResNet110, resnet20, resnet32, resnet44, resnet56, resnet110
from .registry import create_model, list_models, register
from .resnet import (
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet50v2,
    ResNet50vd,
    ResNet101,
    ResNet101v2,
    ResNet152,
    ResNet152v2,
    ResNet200vd,
    ResNetBackbone,
    ResNetModel,
    ResNeXt50,
    ResNeXt101,
    SEResNet18,
    SEResNet34,
    SEResNet50,
    SEResNet50v2,
    SEResNet50vd,
    SEResNet101,
    SEResNet101v2,
    SEResNet152,
    SEResNet152v2,
    SEResNet200vd,
    SEResNeXt50,
    SEResNeXt101,
)
from .saving import load, save

__all__ = [
    "Model",
    "ResNeXt50",
    "ResNeXt101",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet44",
    "ResNet50",
    "ResNet50v2",
    "ResNet50vd",
    "ResNet56",
    "ResNet101",
    "ResNet101v2",
    "ResNet110",
    "ResNet152",
    "ResNet152v2",
    "ResNet200vd",
    "ResNetBackbone",
    "ResNetModel",
    "SEResNeXt50",
    "SEResNeXt101",
    "SEResNet18",
    "SEResNet34",
    "SEResNet50",
    "SEResNet50v2",
    "SEResNet50vd",
    "SEResNet101",
    "SEResNet101v2",
    "SEResNet152",
    "SEResNet152v2",
    "SEResNet200vd",
    "create_model",
    "list_models",
    "load",
    "register",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "save",
]
