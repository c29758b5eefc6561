//! The class `Network`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use resnet_core::graph::Training;
use resnet_core::ops::{Precision, Role};
use resnet_core::{Shape, graph};

use crate::array::{Array, to_numpy};
use crate::attributes::to_attributes;
use crate::error::without_gil;
use crate::optim::Optimizer;
use crate::runtime::isa;
use crate::watch::PythonWatch;

type NodeRow<'py> = (String, String, Vec<usize>, Bound<'py, PyDict>);
type ParameterRow = (String, Vec<usize>, bool, &'static str);
type Dims5 = (usize, usize, usize, usize, usize);

/// A network: nodes, parameters, and the plans made so far.
#[pyclass(frozen, module = "resnet_rs._core")]
pub(crate) struct Network {
    inner: graph::Network,
}

#[pymethods]
impl Network {
    #[new]
    fn new(py: Python<'_>, nodes: Vec<NodeRow<'_>>) -> PyResult<Self> {
        let nodes =
            nodes.into_iter().map(|(name, op, inputs, attributes)| Ok((name, op, inputs, to_attributes(&attributes)?)));
        let nodes = nodes.collect::<PyResult<Vec<_>>>()?;
        Ok(Self { inner: without_gil(py, || graph::Network::new(nodes))? })
    }

    /// Name, shape, whether it is trained, and how it starts, of every parameter.
    fn parameters(&self, py: Python<'_>) -> PyResult<Vec<ParameterRow>> {
        let entries = without_gil(py, || Ok(self.inner.parameters()))?.into_iter();
        let rows = entries
            .map(|entry| {
                let start = match entry.role {
                    Role::Kernel => "kernel",
                    Role::Embedding => "embedding",
                    Role::Scale | Role::RunningVariance => "ones",
                    Role::Bias | Role::RunningMean => "zeros",
                };
                let trainable = entry.trainable();
                (entry.name, entry.shape, trainable, start)
            })
            .collect();
        Ok(rows)
    }

    /// The output shape of every node for an input of this shape.
    fn infer(&self, py: Python<'_>, input_shape: Dims5) -> PyResult<Vec<Dims5>> {
        let shapes = without_gil(py, || self.inner.graph().infer(&[to_shape(input_shape)]))?;
        Ok(shapes.iter().map(from_shape).collect())
    }

    /// A copy of a parameter.
    fn get<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let (shape, values) = without_gil(py, || self.inner.get(name))?;
        to_numpy(py, &shape, values)
    }

    /// Sets a parameter.
    fn set(&self, py: Python<'_>, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = Array::new(value)?;
        let (shape, values) = (value.shape(), value.values()?);
        without_gil(py, || self.inner.set(name, shape, values))
    }

    /// Sets a part of a parameter: its elements, in C order, from `first` on.
    fn write(&self, py: Python<'_>, name: &str, first: usize, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let array = Array::new(values)?;
        let values = array.values()?;
        without_gil(py, || self.inner.write(name, first, values))
    }

    /// How exact the next runs must be: "default", or "strict".
    fn set_precision(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let precision = Precision::from_name(name)
            .ok_or_else(|| PyValueError::new_err(format!("precision must be default or strict, got {name:?}")))?;
        without_gil(py, || {
            self.inner.set_precision(precision);
            Ok(())
        })
    }

    /// The values of the nodes `outputs`.
    fn run<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Bound<'py, PyAny>>,
        outputs: Vec<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let arrays = borrow(&inputs)?;
        let inputs = with_shapes(py, &arrays)?;
        let mut watch = PythonWatch::new();
        let results = without_gil(py, || self.inner.run_watched(isa(), &inputs, &outputs, &mut watch));
        to_list(py, watch.resolve(results)?)
    }

    /// The values of the nodes `outputs` in training mode. Keeps what `train_backward` needs.
    #[pyo3(signature = (inputs, outputs, *, trainable, seed, input_gradients = false, recompute = false))]
    fn train_forward<'py>(
        slf: &Bound<'py, Self>,
        inputs: Vec<Bound<'py, PyAny>>,
        outputs: Vec<usize>,
        trainable: Vec<bool>,
        seed: u64,
        input_gradients: bool,
        recompute: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let (py, network) = (slf.py(), &slf.get().inner);
        let arrays = borrow(&inputs)?;
        let inputs = with_shapes(py, &arrays)?;
        let (outputs, trainable) = (outputs.as_slice(), trainable.as_slice());
        let training = Training { isa: isa(), outputs, trainable, input_gradients, recompute, seed };
        let results = without_gil(py, || network.train_forward(&inputs, &training))?;
        to_list(py, results)
    }

    /// Adds to the gradients of the parameters; the gradients of the inputs, if `train_forward` was asked for them.
    fn train_backward<'py>(&self, py: Python<'py>, d_outputs: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyList>> {
        let arrays = borrow(&d_outputs)?;
        let d_outputs = with_shapes(py, &arrays)?;
        let results = without_gil(py, || self.inner.train_backward(&d_outputs))?;
        to_list(py, results)
    }

    /// A copy of the gradient of a parameter; zeros if there is none.
    fn gradient<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let (shape, values) = without_gil(py, || self.inner.gradient(name))?;
        to_numpy(py, &shape, values)
    }

    /// Sets all gradients to zero.
    fn zero_gradients(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, || {
            self.inner.zero_gradients();
            Ok(())
        })
    }

    /// Moves the parameters by the gradients that are there.
    fn update(&self, py: Python<'_>, optimizer: &Optimizer, learning_rate: f32) -> PyResult<()> {
        optimizer.with(py, |optimizer| self.inner.update(isa(), optimizer, learning_rate))
    }

    /// Exchanges the parameters and their moving averages.
    fn swap_average(&self, py: Python<'_>, optimizer: &Optimizer) -> PyResult<()> {
        optimizer.with(py, |optimizer| self.inner.swap_average(optimizer))
    }

    /// Bytes of activations, gradients of activations and scratch memory of a training step, found by planning it.
    #[pyo3(signature = (input_shape, outputs, *, trainable, input_gradients = false, recompute = false))]
    fn training_bytes(
        &self,
        py: Python<'_>,
        input_shape: Dims5,
        outputs: Vec<usize>,
        trainable: Vec<bool>,
        input_gradients: bool,
        recompute: bool,
    ) -> PyResult<usize> {
        let (outputs, trainable) = (outputs.as_slice(), trainable.as_slice());
        let training = Training { isa: isa(), outputs, trainable, input_gradients, recompute, seed: 0 };
        without_gil(py, || self.inner.training_bytes(&[to_shape(input_shape)], &training))
    }

    /// Per step: name, algorithm, output shape, FLOPs and milliseconds (the least of `repeats` runs).
    fn profile<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Bound<'py, PyAny>>,
        outputs: Vec<usize>,
        repeats: usize,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let arrays = borrow(&inputs)?;
        let inputs = with_shapes(py, &arrays)?;
        let mut watch = PythonWatch::new();
        let steps = without_gil(py, || self.inner.profile(isa(), &inputs, &outputs, repeats, &mut watch));
        let rows = watch.resolve(steps)?.into_iter().map(|step| {
            let row = PyDict::new(py);
            row.set_item("name", step.name)?;
            row.set_item("algorithm", step.algorithm)?;
            row.set_item("output_shape", from_shape(&step.output))?;
            row.set_item("flops", step.flops)?;
            row.set_item("milliseconds", step.seconds * 1e3)?;
            Ok(row)
        });
        rows.collect()
    }

    /// Bytes of activations that a run on this input needs at its widest.
    fn activation_bytes(&self, py: Python<'_>, input_shape: Dims5, outputs: Vec<usize>) -> PyResult<usize> {
        without_gil(py, || self.inner.activation_bytes(&[to_shape(input_shape)], &outputs))
    }
}

fn to_list(py: Python<'_>, tensors: Vec<graph::Tensor>) -> PyResult<Bound<'_, PyList>> {
    let arrays = tensors.into_iter();
    let arrays = arrays.map(|(shape, values)| to_numpy(py, &[shape.n, shape.d, shape.h, shape.w, shape.c], values));
    PyList::new(py, arrays.collect::<PyResult<Vec<_>>>()?)
}

fn borrow<'py>(objects: &[Bound<'py, PyAny>]) -> PyResult<Vec<Array<'py>>> {
    objects.iter().map(Array::new).collect()
}

fn with_shapes<'a>(py: Python<'_>, arrays: &'a [Array<'_>]) -> PyResult<Vec<(Shape, &'a [f32])>> {
    arrays.iter().map(|array| Ok((array.activation(py)?, array.values()?))).collect()
}

fn to_shape((n, d, h, w, c): Dims5) -> Shape {
    Shape::new(n, [d, h, w], c)
}

fn from_shape(shape: &Shape) -> Dims5 {
    (shape.n, shape.d, shape.h, shape.w, shape.c)
}
