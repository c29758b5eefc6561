//! The parameters of a network: one aligned buffer and a table.

use std::collections::HashMap;
use std::ops::Range;

use crate::buffer::{Buffer, HUGE_PAGE, PAGE, align_up};
use crate::error::{Error, Result};
use crate::ops::Role;
use crate::parallel;

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
    edition: u64,
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

    /// Where row `number` is in every buffer of this layout: values, gradients, the state of an optimiser.
    pub fn range(&self, number: usize) -> Range<usize> {
        self.entries[number].range.clone()
    }

    /// Elements of a buffer of this layout.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All values, to be changed: they count as changed. They have been [allocated](Params::allocate).
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.version += 1;
        &mut self.values
    }

    /// Changes whenever the caller sets a value.
    pub fn edition(&self) -> u64 {
        self.edition
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
        self.write(number, 0, value)
    }

    /// Sets a part of the value of row `number`: its elements from `first` on.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it does not have so many, [`Error::Memory`].
    pub fn write(&mut self, number: usize, first: usize, values: &[f32]) -> Result<()> {
        let Entry { name, range, .. } = &self.entries[number];
        if first > range.len() || values.len() > range.len() - first {
            let message = format!("expected at most {} values, got {} from {first} on", range.len(), values.len());
            return Err(Error::Parameter { name: name.clone(), message });
        }
        let start = range.start + first;
        self.allocate()?;
        self.values[start..start + values.len()].copy_from_slice(values);
        self.version += 1;
        self.edition += 1;
        Ok(())
    }

    /// Takes the memory if it is not there yet: everything 0, variances and scales 1.
    ///
    /// All threads touch its pages if it is large: until the system has found and cleared them takes longer than reading a
    /// file to them.
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
        if self.length > HUGE_PAGE {
            parallel::run(|pool| {
                pool.for_each_chunk(&mut self.values, HUGE_PAGE, |_, values| {
                    values.iter_mut().step_by(PAGE).for_each(|value| *value = 0.0);
                });
            });
        }
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
        let version = params.version();
        params.write(weight, 4, &[7.0, 8.0]).unwrap();
        assert_eq!(params.value(weight), [1.0, 2.0, 3.0, 4.0, 7.0, 8.0]);
        assert_ne!(params.version(), version);
        for first in [5, 7, usize::MAX] {
            assert!(params.write(weight, first, &[0.0; 2]).is_err());
        }
        assert_eq!(params.value(weight), [1.0, 2.0, 3.0, 4.0, 7.0, 8.0]);
        assert_eq!(params.value(scale), [1.0, 1.0]);
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
