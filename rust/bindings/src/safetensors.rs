//! The header of a safetensors file, validated by the crate `safetensors`; the data stay with NumPy.

use ::safetensors::tensor::Metadata;
use pyo3::prelude::*;
use std::collections::BTreeMap;

use crate::error::raise;

/// Name, element type ("F32"), shape, first byte and end of the bytes, counted from the end of the header.
type Tensor = (String, String, Vec<usize>, usize, usize);

/// Parses the JSON of a header (without the eight bytes of its length) and checks it against `data_length`,
/// the number of bytes that follow it in the file: offsets must cover them without gap or overlap, and every
/// tensor's shape and element type must make up its bytes.
///
/// Returns the tensors by offset, and the `__metadata__` strings. Raises `FileFormatError` saying what is wrong.
#[pyfunction]
pub(crate) fn read_safetensors_header(
    py: Python<'_>,
    header: &[u8],
    data_length: u64,
) -> PyResult<(Vec<Tensor>, BTreeMap<String, String>)> {
    let refuse = |message| raise(py, "FileFormatError", message);
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| refuse(error.to_string()))?;
    let claimed = metadata.data_len() as u64;
    if claimed != data_length {
        return Err(refuse(format!("the header describes {claimed} bytes of data, the file holds {data_length}")));
    }
    let tensors = metadata
        .offset_keys()
        .into_iter()
        .filter_map(|name| {
            let info = metadata.info(&name)?;
            let (start, stop) = info.data_offsets;
            Some((name, info.dtype.to_string(), info.shape.clone(), start, stop))
        })
        .collect();
    let strings = metadata.metadata().iter().flatten().map(|(name, text)| (name.clone(), text.clone())).collect();
    Ok((tensors, strings))
}
