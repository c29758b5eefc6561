//! The function `augment`.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use resnet_core::augment::{Augmentation, Samples};
use resnet_core::parallel;

use crate::array::{Contents, Numbers, to_numpy};
use crate::attributes::to_attributes;
use crate::error::{raise, without_gil};

type Augmented<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// What images are made of.
enum Pixels<'a> {
    U8(&'a [u8]),
    F32(&'a [f32]),
}

/// The labels of masks after augmentation, in the type in which they came.
enum Labels {
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
}

/// Images `(n, [d,] h, w, c)` and their masks `(n, [d,] h, w[, m])` as the stages `options` change them.
#[pyfunction]
pub(crate) fn augment<'py>(
    images: &Bound<'py, PyAny>,
    masks: Option<&Bound<'py, PyAny>>,
    options: Vec<Bound<'py, PyDict>>,
    seed: u64,
    indices: Vec<u64>,
) -> PyResult<Augmented<'py>> {
    let py = images.py();
    let wrong = |message: String| raise(py, "ShapeError", format!("augmentation: {message}"));
    let images = Numbers::new(images)?;
    let (rank, dims, channels) = match *images.shape() {
        [_, h, w, c] => (2, [1, h, w], c),
        [_, d, h, w, c] => (3, [d, h, w], c),
        ref shape => return Err(wrong(format!("images: expected (n, h, w, c) or (n, d, h, w, c), got {shape:?}"))),
    };
    if indices.len() != images.shape()[0] || images.shape().contains(&0) {
        let (shape, count) = (images.shape(), indices.len());
        return Err(wrong(format!("images: expected no empty axis and {count} samples as indices, got {shape:?}")));
    }
    let masks = masks.map(Numbers::new).transpose()?;
    if let Some(masks) = &masks {
        let (shape, points) = (masks.shape(), &images.shape()[..=rank]);
        if !shape.starts_with(points) || shape.len() > rank + 2 || shape.contains(&0) {
            return Err(wrong(format!("masks: expected shape {points:?} and channels at most, got {shape:?}")));
        }
    }
    let options = options.iter().map(to_attributes).collect::<PyResult<Vec<_>>>()?;
    let pixels = match images.contents()? {
        Contents::U8(pixels) => Pixels::U8(pixels),
        Contents::F32(pixels) => Pixels::F32(pixels),
        _ => {
            let message = format!("augmentation: images: expected uint8 or float32, got {}", images.dtype());
            return Err(raise(py, "DTypeError", message));
        }
    };
    let labels = masks.as_ref().map(|masks| masks.contents()).transpose()?;
    let (dims, images_out, labels) = without_gil(py, || {
        let augmentation = Augmentation::new(rank, options)?;
        parallel::run(|pool| {
            let drawn = augmentation.draw(Samples { dims, channels }, seed, &indices, pool)?;
            let images = match pixels {
                Pixels::U8(pixels) => drawn.images(pixels, pool)?,
                Pixels::F32(pixels) => drawn.images(pixels, pool)?,
            };
            let channels = |values: usize| values / (indices.len() * dims.iter().product::<usize>());
            let labels = match labels {
                None => None,
                Some(Contents::U8(labels)) => Some(Labels::U8(drawn.masks(labels, channels(labels.len()), pool)?)),
                Some(Contents::I32(labels)) => Some(Labels::I32(drawn.masks(labels, channels(labels.len()), pool)?)),
                Some(Contents::I64(labels)) => Some(Labels::I64(drawn.masks(labels, channels(labels.len()), pool)?)),
                Some(Contents::F32(labels)) => Some(Labels::F32(drawn.masks(labels, channels(labels.len()), pool)?)),
            };
            Ok((drawn.dims(), images, labels))
        })
    })?;
    let shape = |like: &[usize]| {
        let rest = &like[rank + 1..];
        [&like[..1], &dims[3 - rank..], rest].concat()
    };
    let masks_out = match (labels, &masks) {
        (Some(labels), Some(masks)) => {
            let shape = shape(masks.shape());
            Some(match labels {
                Labels::U8(labels) => to_numpy(py, &shape, labels)?,
                Labels::I32(labels) => to_numpy(py, &shape, labels)?,
                Labels::I64(labels) => to_numpy(py, &shape, labels)?,
                Labels::F32(labels) => to_numpy(py, &shape, labels)?,
            })
        }
        _ => None,
    };
    Ok((to_numpy(py, &shape(images.shape()), images_out)?, masks_out))
}
