//! Errors of the core, and its panics, as the exceptions of `resnet_rs.errors`: the only place that maps them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;

use pyo3::exceptions::PyKeyboardInterrupt;
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
        // Whoever stops a run knows better why.
        Error::Stopped { .. } => return PyKeyboardInterrupt::new_err(error.to_string()),
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

/// Where the last panic was. A panic may be on any thread; only `try_lock`, because a fork could leave it locked.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps panics of this library off stderr: they become exceptions that say as much.
pub(crate) fn remember_panics() {
    set_hook(Box::new(|panic| {
        if let (Some(location), Ok(mut last)) = (panic.location(), LAST_PANIC.try_lock()) {
            *last = format!("{}:{}", location.file(), location.line());
        }
    }));
}

/// Runs `body` without the GIL.
///
/// # Errors
/// Those of the core, and `InternalError` for a panic.
pub(crate) fn without_gil<R: Send>(py: Python<'_>, body: impl FnOnce() -> Result<R, Error> + Send) -> PyResult<R> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(body))) {
        Ok(result) => result.map_err(|error| to_python(py, &error)),
        Err(panic) => Err(raise(py, "InternalError", describe(&*panic))),
    }
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let place = LAST_PANIC.try_lock().map(|last| last.clone()).unwrap_or_default();
    format!("the engine failed, please report this: {} ({place})", text.unwrap_or("panic").replace('\n', " "))
}
