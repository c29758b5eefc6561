//! The parameters of a network: one aligned buffer and a table.

use std::collections::HashMap;
use std::ops::Range;

use crate::buffer::{Buffer, align_up};
use crate::error::{Error, Result};
use crate::ops::Role;

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The node's name and the parameter's, as `layer1.0.conv1.weight`.
    pub name: String,
    /// In PyTorch's layout, always with three kernel dimensions.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    range: Range<usize>,
}

impl Entry {
    /// Whether an optimiser may change it.
    pub fn trainable(&self) -> bool {
        !matches!(self.role, Role::RunningMean | Role::RunningVariance)
    }
}

/// All parameters of a network. Memory is taken when the first one is set or read.
#[derive(Default)]
pub struct Params {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    length: usize,
    values: Buffer,
    version: u64,
}

impl Params {
    /// Adds a row and returns its number.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that exists, [`Error::Memory`] for a size that cannot be addressed.
    pub fn add(&mut self, name: String, shape: Vec<usize>, role: Role) -> Result<usize> {
        let length = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let end = length
            .and_then(|length| self.length.checked_add(align_up(length)))
            .filter(|&end| end < isize::MAX as usize / 4);
        let (Some(length), Some(end)) = (length, end) else {
            return Err(Error::Memory {
                node: name,
                message: format!("a parameter of shape {shape:?} cannot be addressed"),
            });
        };
        let number = self.entries.len();
        if self.index.insert(name.clone(), number).is_some() {
            return Err(Error::Parameter { name, message: "the name is used twice".into() });
        }
        self.entries.push(Entry { name, shape, role, range: self.length..self.length + length });
        self.length = end;
        Ok(number)
    }

    /// The table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Changes with every change of a value.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The value of row `number`, in the layout of its shape.
    pub fn value(&self, number: usize) -> &[f32] {
        assert!(!self.values.is_empty() || self.length == 0, "parameters are read before they are allocated");
        &self.values[self.entries[number].range.clone()]
    }

    /// Row `number` of the parameter of that name.
    ///
    /// # Errors
    /// [`Error::Parameter`] if there is none.
    pub fn find(&self, name: &str) -> Result<usize> {
        let missing = || Error::Parameter { name: name.into(), message: "there is no parameter of that name".into() };
        self.index.get(name).copied().ok_or_else(missing)
    }

    /// Sets the value of row `number`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the shape is not the parameter's.
    pub fn set(&mut self, number: usize, shape: &[usize], value: &[f32]) -> Result<()> {
        let entry = &self.entries[number];
        if entry.shape != shape || value.len() != entry.range.len() {
            let message = format!("expected shape {:?}, got {shape:?}", entry.shape);
            return Err(Error::Parameter { name: entry.name.clone(), message });
        }
        let range = entry.range.clone();
        self.allocate()?;
        self.values[range].copy_from_slice(value);
        self.version += 1;
        Ok(())
    }

    /// Takes the memory if it is not there yet: everything 0, variances and scales 1.
    ///
    /// # Errors
    /// [`Error::Memory`], naming the largest parameter.
    pub fn allocate(&mut self) -> Result<()> {
        if !self.values.is_empty() || self.length == 0 {
            return Ok(());
        }
        self.values = Buffer::try_zeroed(self.length).map_err(|failed| {
            let largest = self.entries.iter().max_by_key(|entry| entry.range.len());
            Error::out_of_memory(largest.map_or("", |entry| &entry.name), "this and all other parameters", failed.bytes)
        })?;
        for entry in &self.entries {
            if matches!(entry.role, Role::Scale | Role::RunningVariance) {
                self.values[entry.range.clone()].fill(1.0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_shapes_are_held() {
        let mut params = Params::default();
        let weight = params.add("conv1.weight".into(), vec![2, 3, 1, 1, 1], Role::Kernel).unwrap();
        let scale = params.add("bn1.weight".into(), vec![2], Role::Scale).unwrap();
        assert!(params.add("bn1.weight".into(), vec![2], Role::Scale).is_err());
        assert!(params.add("huge".into(), vec![usize::MAX, 2], Role::Kernel).is_err());
        params.allocate().unwrap();
        assert_eq!(params.value(scale), [1.0, 1.0]);
        let version = params.version();
        params.set(weight, &[2, 3, 1, 1, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_ne!(params.version(), version);
        assert!(params.set(weight, &[3, 2, 1, 1, 1], &[0.0; 6]).is_err());
        assert_eq!(params.value(weight)[5], 6.0);
        assert!(params.find("bn2.weight").is_err());
    }

    #[test]
    fn parameters_that_no_machine_can_hold_are_an_error() {
        let mut params = Params::default();
        params.add("bias".into(), vec![2], Role::Bias).unwrap();
        let huge = params.add("huge".into(), vec![1 << 25, 1 << 25], Role::Kernel).unwrap();
        for error in [params.allocate().unwrap_err(), params.set(0, &[2], &[1.0; 2]).unwrap_err()] {
            assert!(matches!(&error, Error::Memory { node, .. } if *node == "huge"), "{error}");
        }
        assert_eq!(params.entries()[huge].name, "huge");
    }
}
