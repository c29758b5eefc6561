//! Errors of the core as the exceptions of `resnet_rs.errors`: the only place that maps them.

use pyo3::prelude::*;
use pyo3::types::PyType;
use resnet_core::Error;

/// The Python exception for an error of the core.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Graph { .. } => "ArgumentError",
        Error::Shape { .. } => "ShapeError",
        Error::Parameter { .. } => "WeightsError",
        Error::Memory { .. } => "MemoryLimitError",
    };
    raise(py, class, error.to_string())
}

/// The exception of that class name in `resnet_rs.errors`.
pub(crate) fn raise(py: Python<'_>, class: &str, message: String) -> PyErr {
    let found = py.import("resnet_rs.errors").and_then(|module| Ok(module.getattr(class)?.cast_into::<PyType>()?));
    match found {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}
