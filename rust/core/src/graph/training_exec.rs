//! Runs a plan for training.

use std::ops::Range;

use super::memory::carve;
use super::training_plan::{Direction, TrainingNode, TrainingPlan};
use crate::ops::{Backward, Forward, Gradient, Io};
use crate::parallel::{Pool, run_with};
use crate::params::Params;
use crate::rng::split;
use crate::shape::Shape;

/// The memory between the directions.
pub(super) struct Tape<'a> {
    pub(super) arena: &'a mut [f32],
    pub(super) seed: u64,
}

impl TrainingPlan {
    /// Packs the weights of all steps that train: they have changed.
    pub(super) fn repack(&mut self, params: &Params) {
        run_with(self.key.threads, |pool| {
            for node in &mut self.nodes {
                let parameters: Vec<&[f32]> = node.parameters.iter().map(|&row| params.value(row)).collect();
                if let Direction::Both(step) = &mut node.direction {
                    step.repack(&parameters, pool);
                }
            }
        });
    }

    /// Computes the outputs, and what [`TrainingPlan::backward`] will read.
    pub(super) fn forward(&self, tape: Tape<'_>, params: &Params, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
        let Tape { arena, seed } = tape;
        for ((node, _), input) in self.inputs.iter().zip(inputs) {
            arena[self.nodes[*node].value.clone()].copy_from_slice(input);
        }
        run_with(self.key.threads, |pool| {
            for (number, node) in self.nodes.iter().enumerate() {
                self.step_forward(node, arena, params, split(seed, number as u64), pool);
            }
        });
        for ((node, _, _), output) in self.outputs.iter().zip(outputs) {
            output.copy_from_slice(&arena[self.nodes[*node].value.clone()]);
        }
    }

    fn step_forward(&self, node: &TrainingNode, arena: &mut [f32], params: &Params, seed: u64, pool: &Pool) {
        let read: Vec<_> = node.inputs.iter().map(|&input| &self.nodes[input].value).collect();
        let (mut written, inputs) = carve(arena, &[&node.value, &node.saved, &node.scratch[0]], &read);
        let [output, saved, scratch] = written.as_mut_slice() else { unreachable!("three ranges were asked for") };
        match &node.direction {
            Direction::Input => {}
            Direction::Forward(step) => step.forward(Io { inputs: &inputs, output, scratch, pool }),
            Direction::Both(step) => {
                let parameters: Vec<&[f32]> = node.parameters.iter().map(|&row| params.value(row)).collect();
                let parameters = parameters.as_slice();
                step.forward(Forward { parameters, inputs: &inputs, output, saved, scratch, seed, pool });
            }
        }
    }

    /// Moves the running statistics.
    pub(super) fn settle(&self, arena: &[f32], params: &mut Params) {
        for node in &self.nodes {
            if let Direction::Both(step) = &node.direction {
                let rows: Vec<Range<usize>> = node.parameters.iter().map(|&row| params.range(row)).collect();
                let (mut parameters, _) = carve(params.values_mut(), &rows.iter().collect::<Vec<_>>(), &[]);
                step.settle(&arena[node.saved.clone()], &mut parameters);
            }
        }
    }

    /// Adds the gradients of the parameters to `gradients`, which has the layout of the parameters.
    pub(super) fn backward(&self, tape: Tape<'_>, params: &Params, gradients: &mut [f32], d_outputs: &[&[f32]]) {
        let Tape { arena, seed } = tape;
        self.turn(arena, d_outputs);
        run_with(self.key.threads, |pool| {
            for (number, node) in self.nodes.iter().enumerate().rev() {
                self.step_backward(node, arena, params, gradients, split(seed, number as u64), pool);
            }
        });
    }

    /// Writes the gradients of the outputs where they start. One node may be several outputs.
    fn turn(&self, arena: &mut [f32], d_outputs: &[&[f32]]) {
        for (number, ((node, _, version), d_output)) in self.outputs.iter().zip(d_outputs).enumerate() {
            let Some(version) = version else { continue };
            let to = &mut arena[version.values.clone()];
            if self.outputs[..number].iter().any(|(other, ..)| other == node) {
                to.iter_mut().zip(*d_output).for_each(|(to, from)| *to += from);
            } else {
                to.copy_from_slice(d_output);
            }
        }
    }

    fn step_backward(
        &self,
        node: &TrainingNode,
        arena: &mut [f32],
        params: &Params,
        gradients: &mut [f32],
        seed: u64,
        pool: &Pool,
    ) {
        let (Direction::Both(step), Some(gradient)) = (&node.direction, &node.gradient) else { return };
        let keeps = step.keeps();
        let nowhere = 0..0;
        let mut written = vec![&node.scratch[1]];
        written.extend(node.d_inputs.iter().flatten().map(|version| &version.values));
        let mut read = vec![gradient, &node.saved, if keeps.output { &node.value } else { &nowhere }];
        for (slot, &input) in node.inputs.iter().enumerate() {
            read.push(if keeps.inputs.contains(&slot) { &self.nodes[input].value } else { &nowhere });
        }
        let before = read.len();
        read.extend(node.d_inputs.iter().flatten().map(|version| version.plus.as_ref().unwrap_or(&nowhere)));
        let (written, read) = carve(arena, &written, &read);
        let mut written = written.into_iter();
        let scratch = written.next().unwrap_or_default();
        let mut plus = read[before..].iter();
        let mut d_inputs: Vec<Option<Gradient<'_>>> = node
            .d_inputs
            .iter()
            .map(|version| {
                let version = version.as_ref()?;
                let contributed = plus.next().copied();
                Some(Gradient { values: written.next()?, plus: contributed.filter(|_| version.plus.is_some()) })
            })
            .collect();
        let rows: Vec<Range<usize>> = node.parameters.iter().map(|&row| params.range(row)).collect();
        let (d_parameters, _) = carve(gradients, &rows.iter().collect::<Vec<_>>(), &[]);
        let mut d_parameters: Vec<Option<&mut [f32]>> =
            d_parameters.into_iter().zip(&node.trains).map(|(row, &trains)| trains.then_some(row)).collect();
        let parameters: Vec<&[f32]> = node.parameters.iter().map(|&row| params.value(row)).collect();
        step.backward(Backward {
            parameters: &parameters,
            inputs: &read[3..before],
            output: read[2],
            d_output: read[0],
            saved: read[1],
            d_inputs: &mut d_inputs,
            d_parameters: &mut d_parameters,
            scratch,
            seed,
            pool,
        });
    }

    /// The gradients of the inputs, in their order.
    pub(super) fn input_gradients(&self, arena: &[f32]) -> Vec<(Shape, Vec<f32>)> {
        let gradient = |(node, shape): &(usize, Shape)| {
            let values = match &self.nodes[*node].gradient {
                Some(range) => arena[range.clone()].to_vec(),
                None => vec![0.0; shape.len()],
            };
            (*shape, values)
        };
        self.inputs.iter().map(gradient).collect()
    }
}
