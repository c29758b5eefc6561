//! One step after the other on the same inputs, each with outputs of its own: the phases of a map.

use crate::ops::{Io, Step};

/// The steps.
pub(super) struct Sequence<T>(pub(super) Vec<T>);

impl<T: Step> Step for Sequence<T> {
    fn scratch(&self) -> usize {
        self.0.iter().map(Step::scratch).max().unwrap_or(0)
    }

    fn forward(&self, io: Io<'_>) {
        let Io { inputs, output, in_place, scratch, pool } = io;
        for step in &self.0 {
            let scratch = &mut scratch[..step.scratch()];
            step.forward(Io { inputs, output: &mut *output, in_place, scratch, pool });
        }
    }

    fn algorithm(&self) -> String {
        match self.0.as_slice() {
            [step] => step.algorithm(),
            steps => format!("direct, {} phases", steps.len()),
        }
    }

    fn flops(&self) -> u64 {
        self.0.iter().map(Step::flops).sum()
    }
}
