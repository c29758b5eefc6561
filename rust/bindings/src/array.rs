//! NumPy arrays in and out: the only file that knows numpy.

use std::borrow::Cow;

use numpy::{Element, IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods, ndarray};
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

/// A borrowed, contiguous array of any of the types that labels, masks and pictures come in.
pub(crate) enum Numbers<'py> {
    U8(PyReadonlyArrayDyn<'py, u8>),
    I32(PyReadonlyArrayDyn<'py, i32>),
    I64(PyReadonlyArrayDyn<'py, i64>),
    F32(PyReadonlyArrayDyn<'py, f32>),
}

impl<'py> Numbers<'py> {
    /// Borrows `object`.
    ///
    /// # Errors
    /// `DTypeError` unless it is a C-contiguous array of `uint8`, `int32`, `int64` or `float32`.
    pub(crate) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let wrong = |got: String| {
            let expected = "expected a C-contiguous uint8, int32, int64 or float32 array";
            raise(object.py(), "DTypeError", format!("{expected}, got {got}"))
        };
        fn borrow<'py, T: Element>(object: &Bound<'py, PyAny>) -> Option<PyResult<PyReadonlyArrayDyn<'py, T>>> {
            let array = object.cast::<PyArrayDyn<T>>().ok().filter(|array| array.is_c_contiguous())?;
            Some(array.try_readonly().map_err(Into::into))
        }
        if let Some(array) = borrow(object) {
            return array.map(Self::U8);
        }
        if let Some(array) = borrow(object) {
            return array.map(Self::I32);
        }
        if let Some(array) = borrow(object) {
            return array.map(Self::I64);
        }
        borrow(object).ok_or_else(|| wrong(describe(object)))?.map(Self::F32)
    }

    /// The sizes of the axes.
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::U8(array) => array.shape(),
            Self::I32(array) => array.shape(),
            Self::I64(array) => array.shape(),
            Self::F32(array) => array.shape(),
        }
    }

    /// The name of the type.
    pub(crate) fn dtype(&self) -> &'static str {
        match self {
            Self::U8(_) => "uint8",
            Self::I32(_) => "int32",
            Self::I64(_) => "int64",
            Self::F32(_) => "float32",
        }
    }

    /// The values in C order.
    pub(crate) fn contents(&self) -> PyResult<Contents<'_>> {
        Ok(match self {
            Self::U8(array) => Contents::U8(array.as_slice()?),
            Self::I32(array) => Contents::I32(array.as_slice()?),
            Self::I64(array) => Contents::I64(array.as_slice()?),
            Self::F32(array) => Contents::F32(array.as_slice()?),
        })
    }
}

/// Values of any of these types.
#[derive(Clone, Copy)]
pub(crate) enum Contents<'a> {
    U8(&'a [u8]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    F32(&'a [f32]),
}

impl<'a> Contents<'a> {
    /// The values as labels: none if they are not whole numbers by type. What is beyond `i32` is no label of any class and
    /// becomes the nearest that is none either.
    pub(crate) fn labels(self) -> Option<Cow<'a, [i32]>> {
        match self {
            Self::U8(labels) => Some(labels.iter().map(|&label| i32::from(label)).collect()),
            Self::I32(labels) => Some(Cow::Borrowed(labels)),
            Self::I64(labels) => {
                let narrow = |&label: &i64| label.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
                Some(labels.iter().map(narrow).collect())
            }
            Self::F32(_) => None,
        }
    }

    /// The values as numbers.
    pub(crate) fn floats(self) -> Cow<'a, [f32]> {
        match self {
            Self::U8(values) => values.iter().map(|&value| f32::from(value)).collect(),
            Self::I32(values) => values.iter().map(|&value| value as f32).collect(),
            Self::I64(values) => values.iter().map(|&value| value as f32).collect(),
            Self::F32(values) => Cow::Borrowed(values),
        }
    }
}

/// What is wrong with an array that cannot be borrowed.
fn describe(object: &Bound<'_, PyAny>) -> String {
    match object.getattr("dtype") {
        Ok(dtype) => format!("{dtype}, or one that is not contiguous"),
        Err(_) => object.get_type().to_string(),
    }
}

/// A new array of these values, without copying them.
pub(crate) fn to_numpy<'py, T: Element>(
    py: Python<'py>,
    shape: &[usize],
    values: Vec<T>,
) -> PyResult<Bound<'py, PyAny>> {
    let array = ndarray::ArrayD::from_shape_vec(shape, values)
        .map_err(|error| raise(py, "ShapeError", format!("shape {shape:?}: {error}")))?;
    Ok(array.into_pyarray(py).into_any())
}
