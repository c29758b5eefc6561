//! What Python has to say during a run: whether there is memory for it, and whether a signal has come.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use resnet_core::graph::Watch;

/// Signals are looked for no more often: each look needs the GIL.
const PERIOD: Duration = Duration::from_millis(50);
/// Fewer bytes are not worth a look at the system.
const LITTLE: usize = 1 << 26;

/// Asks Python. The thread does not hold the GIL in between.
pub(crate) struct PythonWatch {
    looked: Instant,
    /// Why the run was stopped.
    error: Option<PyErr>,
}

impl PythonWatch {
    pub(crate) fn new() -> Self {
        Self { looked: Instant::now(), error: None }
    }

    /// The exception that stopped the run, or else `result`.
    pub(crate) fn resolve<R>(self, result: PyResult<R>) -> PyResult<R> {
        match self.error {
            Some(error) => Err(error),
            None => result,
        }
    }

    fn ask(&mut self, question: impl FnOnce(Python<'_>) -> PyResult<()>) -> bool {
        self.error = Python::attach(question).err();
        self.looked = Instant::now();
        self.error.is_none()
    }
}

impl Watch for PythonWatch {
    fn allocate(&mut self, bytes: usize) -> bool {
        let what = "the memory for activations, scratch and results of this run";
        bytes <= LITTLE
            || self.ask(|py| py.import("resnet_rs.runtime")?.call_method1("require_memory", (bytes, what)).map(drop))
    }

    fn go_on(&mut self) -> bool {
        self.looked.elapsed() < PERIOD || self.ask(|py| py.check_signals())
    }
}
