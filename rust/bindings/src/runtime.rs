//! Threads and instruction sets.

use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use resnet_core::fork::{self, Section};
use resnet_core::simd::Isa;
use resnet_core::{parallel, peak};

use crate::error::raise;

static CHOSEN: Mutex<Option<Isa>> = Mutex::new(None);

/// The instruction set that new plans are made for.
pub(crate) fn isa() -> Isa {
    let _section = Section::enter();
    let chosen = *CHOSEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    chosen.unwrap_or_else(Isa::best)
}

/// Forks of this process wait until no thread holds a lock of the core, which the child could never take.
pub(crate) fn watch_forks(py: Python<'_>) -> PyResult<()> {
    // Not on Windows, which has no fork.
    let Some(register) = py.import("os")?.getattr_opt("register_at_fork")? else { return Ok(()) };
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(before_fork, py)?)?;
    hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork_in_parent, py)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(after_fork_in_child, py)?)?;
    register.call((), Some(&hooks)).map(drop)
}

#[pyfunction]
fn before_fork(py: Python<'_>) {
    py.detach(fork::begin);
}

#[pyfunction]
fn after_fork_in_parent() {
    fork::end(false);
}

#[pyfunction]
fn after_fork_in_child() {
    fork::end(true);
}

/// Obeys `RESNET_RS_NUM_THREADS` and `RESNET_RS_ISA`.
pub(crate) fn read_environment(py: Python<'_>) -> PyResult<()> {
    if let Ok(text) = std::env::var("RESNET_RS_NUM_THREADS") {
        let expected = || format!("RESNET_RS_NUM_THREADS: expected 1 to {}, got {text:?}", parallel::MAX_THREADS);
        let threads = text.trim().parse().map_err(|_| raise(py, "ArgumentError", expected()))?;
        set_num_threads(py, Some(threads)).map_err(|_| raise(py, "ArgumentError", expected()))?;
    }
    match std::env::var("RESNET_RS_ISA") {
        Ok(name) => set_isa(py, Some(name.trim()))
            .map_err(|error| raise(py, "ArgumentError", format!("RESNET_RS_ISA: {}", error.value(py)))),
        Err(_) => Ok(()),
    }
}

/// Sets the number of threads of this process; None returns to the default.
#[pyfunction]
#[pyo3(signature = (threads))]
pub(crate) fn set_num_threads(py: Python<'_>, threads: Option<usize>) -> PyResult<()> {
    if threads.is_some_and(|threads| !(1..=parallel::MAX_THREADS).contains(&threads)) {
        let message = format!("threads: expected 1 to {}, got {}", parallel::MAX_THREADS, threads.unwrap_or(0));
        return Err(raise(py, "ArgumentError", message));
    }
    parallel::set_threads(threads);
    Ok(())
}

/// The number of threads in use.
#[pyfunction]
pub(crate) fn get_num_threads() -> usize {
    parallel::threads()
}

/// GFLOP/s of multiply-adds on registers alone, with the threads and the instruction set in use: the best of some ms.
#[pyfunction]
pub(crate) fn peak_gflops(py: Python<'_>) -> f64 {
    const ROUNDS: usize = 60;
    let isa = isa();
    py.detach(|| parallel::run(|pool| (0..ROUNDS).map(|_| peak::measure(isa, pool)).fold(0.0, f64::max)) / 1e9)
}

/// The number of threads that affinity and cgroup quota allow.
#[pyfunction]
pub(crate) fn available_threads() -> usize {
    parallel::available_threads()
}

/// Forces an instruction set by name; None returns to the best.
#[pyfunction]
#[pyo3(signature = (name))]
pub(crate) fn set_isa(py: Python<'_>, name: Option<&str>) -> PyResult<()> {
    let chosen = match name {
        None => None,
        Some(name) => Some(Isa::from_name(name).filter(|isa| isa.is_available()).ok_or_else(|| {
            let message = format!("isa: expected one of {}, got {name:?}", available_isas().join(", "));
            raise(py, "ArgumentError", message)
        })?),
    };
    let _section = Section::enter();
    *CHOSEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = chosen;
    Ok(())
}

/// The instruction set that new plans are made for.
#[pyfunction]
pub(crate) fn get_isa() -> &'static str {
    isa().name()
}

/// The instruction sets that this processor has.
#[pyfunction]
pub(crate) fn available_isas() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}
