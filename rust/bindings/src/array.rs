//! NumPy arrays in and out: the only file that knows numpy.

use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods, ndarray};
use pyo3::prelude::*;
use resnet_core::Shape;

use crate::error::raise;

/// A borrowed, contiguous `float32` array.
pub(crate) struct Array<'py> {
    array: PyReadonlyArrayDyn<'py, f32>,
}

impl<'py> Array<'py> {
    /// Borrows `object`.
    ///
    /// # Errors
    /// `DTypeError` unless it is a C-contiguous array of native `float32`; the Python layer sees to that.
    pub(crate) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let wrong =
            |got: String| raise(object.py(), "DTypeError", format!("expected a C-contiguous float32 array, got {got}"));
        let array = object.cast::<PyArrayDyn<f32>>().map_err(|_| wrong(object.get_type().to_string()))?;
        if !array.is_c_contiguous() {
            return Err(wrong("one that is not contiguous".into()));
        }
        let array = array.try_readonly().map_err(|error| wrong(error.to_string()))?;
        Ok(Self { array })
    }

    /// The sizes of the axes.
    pub(crate) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// The values in C order.
    pub(crate) fn values(&self) -> PyResult<&[f32]> {
        Ok(self.array.as_slice()?)
    }

    /// The shape as an activation's: (n, d, h, w, c).
    pub(crate) fn activation(&self, py: Python<'_>) -> PyResult<Shape> {
        match *self.shape() {
            [n, d, h, w, c] => Ok(Shape::new(n, [d, h, w], c)),
            _ => {
                Err(raise(py, "ShapeError", format!("expected an array (n, d, h, w, c), got shape {:?}", self.shape())))
            }
        }
    }
}

/// A new array of these values, without copying them.
pub(crate) fn to_numpy<'py>(py: Python<'py>, shape: &[usize], values: Vec<f32>) -> PyResult<Bound<'py, PyAny>> {
    let array = ndarray::ArrayD::from_shape_vec(shape, values)
        .map_err(|error| raise(py, "ShapeError", format!("shape {shape:?}: {error}")))?;
    Ok(array.into_pyarray(py).into_any())
}
