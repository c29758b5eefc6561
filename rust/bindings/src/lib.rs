//! The extension module `resnet_rs._core`: translation between Python and `resnet_core`, nothing else.

use pyo3::prelude::*;

#[pymodule]
mod _core {}
