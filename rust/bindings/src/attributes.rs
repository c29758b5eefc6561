//! A dict of Python values as the attributes of a node.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use resnet_core::ops::{Attributes, Value};

use crate::error::raise;

/// A list nested deeper than padding pairs is nobody's attribute.
const DEPTH: usize = 3;

/// Translates a dict of bool, int, float, str and lists or tuples of them.
pub(crate) fn to_attributes(dict: &Bound<'_, PyDict>) -> PyResult<Attributes> {
    let values = dict.iter().map(|(name, value)| Ok((name.extract::<String>()?, to_value(&value, DEPTH)?)));
    Ok(Attributes::new(values.collect::<PyResult<BTreeMap<_, _>>>()?))
}

fn to_value(object: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    // bool first: in Python it is an int.
    if object.is_instance_of::<PyBool>() {
        return Ok(Value::Bool(object.extract()?));
    }
    if object.is_instance_of::<PyInt>() {
        let wrong = |_| raise(object.py(), "ArgumentError", format!("attributes: {object} has more than 64 bits"));
        return Ok(Value::Int(object.extract().map_err(wrong)?));
    }
    if object.is_instance_of::<PyFloat>() {
        return Ok(Value::Float(object.extract()?));
    }
    if object.is_instance_of::<PyString>() {
        return Ok(Value::Text(object.extract()?));
    }
    if depth == 0 {
        return Err(raise(object.py(), "ArgumentError", "attributes: expected lists at most three deep".into()));
    }
    let items = object.try_iter()?.map(|item| to_value(&item?, depth - 1));
    Ok(Value::List(items.collect::<PyResult<_>>()?))
}
