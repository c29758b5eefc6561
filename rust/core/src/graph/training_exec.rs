//! Runs a plan for training.

use std::ops::Range;

use super::memory::carve;
use super::training_plan::{Action, Direction, Port, StepBackward, StepForward, TrainingPlan};
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
    pub(super) fn forward(&self, mut tape: Tape<'_>, params: &Params, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
        for (port, input) in self.layout.inputs.iter().zip(inputs) {
            tape.arena[self.layout.places[port.value].clone()].copy_from_slice(input);
        }
        run_with(self.key.threads, |pool| {
            for step in &self.layout.forward {
                self.step_forward(step, false, &mut tape, params, pool);
            }
        });
        for (port, output) in self.layout.outputs.iter().zip(outputs) {
            output.copy_from_slice(&tape.arena[self.layout.places[port.value].clone()]);
        }
    }

    fn step_forward(&self, step: &StepForward, again: bool, tape: &mut Tape<'_>, params: &Params, pool: &Pool) {
        let node = &self.nodes[step.node];
        let read: Vec<_> = step.inputs.iter().map(|&input| &self.layout.places[input]).collect();
        let written = [&self.layout.places[step.output], &node.saved, &self.layout.places[step.scratch]];
        let (mut written, inputs) = carve(tape.arena, &written, &read);
        let [output, saved, scratch] = written.as_mut_slice() else { unreachable!("three ranges were asked for") };
        match &node.direction {
            Direction::Input => {}
            Direction::Forward(step) => step.forward(Io { inputs: &inputs, output, in_place: false, scratch, pool }),
            Direction::Both(both) => {
                let parameters: Vec<&[f32]> = node.parameters.iter().map(|&row| params.value(row)).collect();
                let (parameters, seed) = (parameters.as_slice(), split(tape.seed, step.node as u64));
                let io = Forward { parameters, inputs: &inputs, output, saved, scratch, seed, pool };
                if again { both.forward_again(io) } else { both.forward(io) }
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
    pub(super) fn backward(&self, mut tape: Tape<'_>, params: &Params, gradients: &mut [f32], d_outputs: &[&[f32]]) {
        self.turn(tape.arena, d_outputs);
        run_with(self.key.threads, |pool| {
            for action in &self.layout.backward {
                match action {
                    Action::Again(step) => self.step_forward(step, true, &mut tape, params, pool),
                    Action::Backward(step) => self.step_backward(step, &mut tape, params, gradients, pool),
                }
            }
        });
    }

    /// Writes the gradients of the outputs where they start. One node may be several outputs.
    fn turn(&self, arena: &mut [f32], d_outputs: &[&[f32]]) {
        for (number, (port, d_output)) in self.layout.outputs.iter().zip(d_outputs).enumerate() {
            let Some(gradient) = port.gradient else { continue };
            let to = &mut arena[self.layout.places[gradient].clone()];
            if self.layout.outputs[..number].iter().any(|other| other.node == port.node) {
                to.iter_mut().zip(*d_output).for_each(|(to, from)| *to += from);
            } else {
                to.copy_from_slice(d_output);
            }
        }
    }

    fn step_backward(
        &self,
        step: &StepBackward,
        tape: &mut Tape<'_>,
        params: &Params,
        gradients: &mut [f32],
        pool: &Pool,
    ) {
        let node = &self.nodes[step.node];
        let Direction::Both(both) = &node.direction else { unreachable!("{} has no step backward", node.name) };
        let nowhere = 0..0;
        let place = |demand: Option<usize>| demand.map_or(&nowhere, |demand| &self.layout.places[demand]);
        let mut written = vec![&self.layout.places[step.scratch]];
        written.extend(step.d_inputs.iter().flatten().map(|version| &self.layout.places[version.values]));
        let mut read = vec![&self.layout.places[step.gradient], &node.saved, place(step.output)];
        read.extend(step.inputs.iter().map(|&input| place(input)));
        let before = read.len();
        read.extend(step.d_inputs.iter().flatten().map(|version| place(version.plus)));
        let (written, read) = carve(tape.arena, &written, &read);
        let mut written = written.into_iter();
        let scratch = written.next().unwrap_or_default();
        let mut plus = read[before..].iter();
        let mut d_inputs: Vec<Option<Gradient<'_>>> = step
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
        both.backward(Backward {
            parameters: &parameters,
            inputs: &read[3..before],
            output: read[2],
            d_output: read[0],
            saved: read[1],
            d_inputs: &mut d_inputs,
            d_parameters: &mut d_parameters,
            scratch,
            seed: split(tape.seed, step.node as u64),
            pool,
        });
    }

    /// The gradients of the inputs, in their order.
    pub(super) fn input_gradients(&self, arena: &[f32]) -> Vec<(Shape, Vec<f32>)> {
        let gradient = |port: &Port| {
            let shape = self.nodes[port.node].shape;
            let values = match port.gradient {
                Some(gradient) => arena[self.layout.places[gradient].clone()].to_vec(),
                None => vec![0.0; shape.len()],
            };
            (shape, values)
        };
        self.layout.inputs.iter().map(gradient).collect()
    }
}
