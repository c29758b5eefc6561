//! The extension module `resnet_rs._core`: translation between Python and `resnet_core`, nothing else.

mod array;
mod attributes;
mod augment;
mod error;
mod losses;
mod network;
mod optim;
mod runtime;
mod safetensors;
mod watch;

use pyo3::prelude::*;

/// The Rust engine of resnet_rs.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::augment::augment;
    #[pymodule_export]
    use super::losses::loss;
    #[pymodule_export]
    use super::network::Network;
    #[pymodule_export]
    use super::optim::Optimizer;
    #[pymodule_export]
    use super::runtime::{
        available_isas, available_threads, get_isa, get_num_threads, peak_gflops, set_isa, set_num_threads,
    };
    #[pymodule_export]
    use super::safetensors::read_safetensors_header;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        super::error::remember_panics();
        super::runtime::watch_forks(module.py())?;
        super::runtime::read_environment(module.py())
    }
}
