//! The class `Optimizer`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use resnet_core::fork::Section;
use resnet_core::pieces::Place;
use resnet_core::{Error, optim, parallel};

use crate::array::{Array, to_numpy};
use crate::attributes::to_attributes;
use crate::error::{raise, without_gil};
use crate::runtime::isa;

/// An optimiser and its state, for parameters in one flat layout.
#[pyclass(frozen, module = "resnet_rs._core")]
pub(crate) struct Optimizer {
    /// Empty while it is in use. Nobody waits for it: a step takes long, and a fork in the middle of one would leave the
    /// child waiting for a thread that is not there.
    inner: Mutex<Option<optim::Optimizer>>,
}

/// An optimiser in use, which goes back when this is dropped, after a panic too.
struct InUse<'a> {
    home: &'a Mutex<Option<optim::Optimizer>>,
    optimizer: Option<optim::Optimizer>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some(optimizer) = self.optimizer.take() {
            let _section = Section::enter();
            *self.home.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(optimizer);
        }
    }
}

impl Optimizer {
    /// Runs `body` with the optimiser, without the GIL.
    ///
    /// # Errors
    /// Those of `body`; `Error::Graph` while another thread uses it.
    pub(crate) fn with<R: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut optim::Optimizer) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        without_gil(py, || {
            let optimizer = {
                let _section = Section::enter();
                self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
            };
            let mut in_use = InUse { home: &self.inner, optimizer };
            let busy = || Error::Graph { node: "optimizer".into(), message: "another thread is using it".into() };
            in_use.optimizer.as_mut().ok_or_else(busy).and_then(body)
        })
    }
}

#[pymethods]
impl Optimizer {
    #[new]
    fn new(
        py: Python<'_>,
        kind: &str,
        options: &Bound<'_, PyDict>,
        factors: Vec<f32>,
        decays: Vec<f32>,
    ) -> PyResult<Self> {
        if factors.len() != decays.len() {
            let message = format!("optimizer: expected {} decays as factors, got {}", factors.len(), decays.len());
            return Err(raise(py, "ArgumentError", message));
        }
        let options = to_attributes(options)?;
        let groups = factors.into_iter().zip(decays).map(|(factor, decay)| optim::Group { factor, decay }).collect();
        let inner = without_gil(py, || optim::Optimizer::new(kind, options, groups))?;
        Ok(Self { inner: Mutex::new(Some(inner)) })
    }

    /// Steps taken.
    #[getter]
    fn step_count(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |inner| Ok(inner.step_count()))
    }

    /// Copies of the buffers of the state by name, and "step"; no buffers before the first step.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (step, buffers) = self.with(py, |inner| {
            let buffers: Vec<_> = inner.state().map(|(name, buffer)| (name, buffer.to_vec())).collect();
            Ok((inner.step_count(), buffers))
        })?;
        let state = PyDict::new(py);
        state.set_item("step", to_numpy(py, &[], vec![step as i64])?)?;
        for (name, buffer) in buffers {
            state.set_item(name, to_numpy(py, &[buffer.len()], buffer)?)?;
        }
        Ok(state)
    }

    /// Goes on from what `state` gave.
    fn load_state(&self, py: Python<'_>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let (mut step, mut arrays) = (None, BTreeMap::new());
        for (name, value) in state.iter() {
            let name: String = name.extract()?;
            if name == "step" {
                step = value.call_method0("__int__")?.extract::<u64>().ok();
            } else {
                arrays.insert(name, Array::new(&value)?);
            }
        }
        let Some(step) = step else {
            return Err(raise(py, "WeightsError", "optimizer state step: expected a whole number >= 0".into()));
        };
        let buffers = arrays.iter().map(|(name, array)| Ok((name.clone(), array.values()?)));
        let buffers = buffers.collect::<PyResult<BTreeMap<_, _>>>()?;
        self.with(py, |inner| inner.load_state(step, buffers))
    }

    /// One step for parameters that belong to no network: the values after it. `rows` are the ranges of the flat arrays
    /// that hold a row each.
    fn step<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<(usize, usize)>,
        values: &Bound<'py, PyAny>,
        gradients: &Bound<'py, PyAny>,
        learning_rate: f32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (values, gradients) = (Array::new(values)?, Array::new(gradients)?);
        let rows: Vec<_> = rows.into_iter().map(|(start, end)| start..end).collect();
        let (mut new, d_values) = (values.values()?.to_vec(), gradients.values()?);
        let new = self.with(py, |inner| {
            parallel::run(|pool| inner.update(&rows, &mut new, d_values, learning_rate, Place { isa: isa(), pool }))?;
            Ok(new)
        })?;
        to_numpy(py, values.shape(), new)
    }
}
