"""Weights: files of every common kind read without their frameworks, and names of every common scheme recognised.

>>> import tempfile, pathlib, numpy as np
>>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
>>> write_safetensors(path, {"module.linear.bias": np.zeros(3, np.float32)})
>>> arrays, report = match(read(path), {"fc.bias": (3,)})
>>> sorted(arrays), report.loaded, report.prefix
(['fc.bias'], 1, 'module.')
"""

from resnet_rs.weights.match import match
from resnet_rs.weights.reader import read
from resnet_rs.weights.report import Mismatch, Report
from resnet_rs.weights.safetensors import read_metadata, write_safetensors

__all__ = ["Mismatch", "Report", "match", "read", "read_metadata", "write_safetensors"]
