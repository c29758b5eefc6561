//! Runs a plan.

use std::time::Instant;

use super::memory::carve;
use super::network::Watch;
use super::plan::{Place, Plan, Planned};
use crate::error::{Error, Result};
use crate::ops::Io;
use crate::parallel::{Pool, run_with};

impl Plan {
    /// Computes the outputs from the inputs, both in the order of the plan's key.
    ///
    /// # Errors
    /// [`Error::Stopped`] by `watch`.
    pub(super) fn forward(
        &self,
        arena: &mut [f32],
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
        watch: &mut dyn Watch,
    ) -> Result<()> {
        run_with(self.threads, |pool| {
            for step in &self.steps {
                step.ask(watch)?;
                step.forward(arena, inputs, pool);
            }
            for ((place, _), output) in self.outputs.iter().zip(outputs) {
                output.copy_from_slice(match place {
                    Place::Caller(number) => inputs[*number],
                    Place::Arena(range) => &arena[range.clone()],
                    Place::Output => unreachable!("no step reads a result"),
                });
            }
            Ok(())
        })
    }

    /// Seconds that each step takes: the least of `repeats` runs of the whole plan.
    ///
    /// # Errors
    /// As [`Plan::forward`].
    pub(super) fn time(
        &self,
        arena: &mut [f32],
        inputs: &[&[f32]],
        repeats: usize,
        watch: &mut dyn Watch,
    ) -> Result<Vec<f64>> {
        run_with(self.threads, |pool| {
            let mut best = vec![f64::INFINITY; self.steps.len()];
            for _ in 0..repeats {
                for (step, best) in self.steps.iter().zip(&mut best) {
                    step.ask(watch)?;
                    let start = Instant::now();
                    step.forward(arena, inputs, pool);
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            Ok(best)
        })
    }
}

impl Planned {
    fn ask(&self, watch: &mut dyn Watch) -> Result<()> {
        if watch.go_on() { Ok(()) } else { Err(Error::Stopped { node: self.name.clone() }) }
    }

    fn forward(&self, arena: &mut [f32], callers: &[&[f32]], pool: &Pool) {
        let nowhere = 0..0;
        let read: Vec<_> =
            self.inputs.iter().map(|place| if let Place::Arena(range) = place { range } else { &nowhere }).collect();
        let (mut written, mut inputs) = carve(arena, &[&self.output, &self.scratch], &read);
        for (input, place) in inputs.iter_mut().zip(&self.inputs) {
            if let Place::Caller(number) = place {
                *input = callers[*number];
            }
        }
        let [output, scratch] = written.as_mut_slice() else { unreachable!("two ranges were asked for") };
        let in_place = self.inputs.iter().any(|place| matches!(place, Place::Output));
        self.step.forward(Io { inputs: &inputs, output, in_place, scratch, pool });
    }
}
