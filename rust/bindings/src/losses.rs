//! The function `loss`.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use resnet_core::losses::{Loss, Target};
use resnet_core::parallel;
use resnet_core::pieces::Place;

use crate::array::{Array, Numbers, to_numpy};
use crate::attributes::to_attributes;
use crate::error::{raise, without_gil};
use crate::runtime::isa;

type Evaluated<'py> = (f64, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// The loss of `y` (n, d, h, w, c), its values before reduction, and its gradient by `y`.
#[pyfunction]
#[pyo3(signature = (kind, y, target, options, weights = None))]
pub(crate) fn loss<'py>(
    kind: &str,
    y: &Bound<'py, PyAny>,
    target: &Bound<'py, PyAny>,
    options: &Bound<'py, PyDict>,
    weights: Option<&Bound<'py, PyAny>>,
) -> PyResult<Evaluated<'py>> {
    let py = y.py();
    let options = to_attributes(options)?;
    let (y, target, weights) = (Array::new(y)?, Numbers::new(target)?, weights.map(Array::new).transpose()?);
    let (shape, values) = (y.activation(py)?, y.values()?);
    let weights = match &weights {
        Some(weights) => Some((weights.shape(), weights.values()?)),
        None => None,
    };
    let contents = target.contents()?;
    let (labels, numbers) =
        if kind.starts_with("sparse_") { (contents.labels(), None) } else { (None, Some(contents.floats())) };
    let goal = match (&labels, &numbers) {
        (Some(labels), _) => Target::Labels(labels),
        (None, Some(numbers)) => Target::Dense(numbers),
        (None, None) => {
            let message = format!("{kind}: target: expected class labels as whole numbers, got {}", target.dtype());
            return Err(raise(py, "DTypeError", message));
        }
    };
    let goal = (target.shape(), goal);
    let evaluated = without_gil(py, || {
        let loss = Loss::new(kind, options)?;
        parallel::run(|pool| loss.evaluate((shape, values), goal, weights, Place { isa: isa(), pool }))
    })?;
    let values = to_numpy(py, &evaluated.shape, evaluated.values)?;
    Ok((evaluated.loss, values, to_numpy(py, y.shape(), evaluated.d_y)?))
}
