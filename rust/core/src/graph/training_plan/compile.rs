//! The steps of a network for training: what a gradient passes is compiled in both directions.
//!
//! Nodes that no gradient passes, because nothing trainable lies before them, are fused and run as for inference.

use std::sync::Arc;

use super::TrainingKey;
use crate::buffer::catch_out_of_memory;
use crate::error::{Error, Result};
use crate::graph::fuse::{Fused, fuse_with};
use crate::graph::spec::{Graph, Node, infer};
use crate::ops::{Activation, Compile, Keeps, Packing, Packs, Step, Stretches, TrainStep, Wants};
use crate::parallel::run_with;
use crate::params::Params;
use crate::shape::Shape;

/// A node forward, and backward if a gradient passes it.
pub(in crate::graph) enum Direction {
    /// The caller's value, copied.
    Input,
    Forward(Box<dyn Step>),
    Both(Box<dyn TrainStep>),
}

/// What a step asks of its plan.
#[derive(Default)]
pub(super) struct Needs {
    pub(super) keeps: Keeps,
    pub(super) saved: usize,
    pub(super) scratch: [usize; 2],
}

impl Needs {
    fn of(direction: &Direction) -> Self {
        match direction {
            Direction::Input => Self::default(),
            Direction::Forward(step) => Self { scratch: [step.scratch(), 0], ..Self::default() },
            Direction::Both(step) => Self { keeps: step.keeps(), saved: step.saved(), scratch: step.scratch() },
        }
    }
}

/// A network whose steps have no memory yet.
pub(super) struct Compiled {
    /// In the order of computation.
    pub(super) nodes: Vec<Node>,
    /// Of the nodes' values.
    pub(super) shapes: Vec<Shape>,
    pub(super) directions: Vec<Direction>,
    /// Of the steps, asked once: plans are tried by the hundred.
    pub(super) needs: Vec<Needs>,
    /// For each node, whether its value has a gradient.
    pub(super) active: Vec<bool>,
    /// The nodes that were asked for, in the order in which they were.
    pub(super) outputs: Vec<usize>,
}

impl Compiled {
    pub(super) fn new(graph: &Graph, params: &Params, key: &TrainingKey) -> Result<Self> {
        graph.infer(&key.inputs)?;
        let active = find_active(graph.nodes(), key);
        let is_active_node = |node: &Node| is_active(node, &active, key);
        let Fused { mut nodes, mut outputs } = fuse_with(graph.nodes(), &key.outputs, |producer, node, slot| {
            match (is_active_node(producer), is_active_node(node)) {
                (false, false) => producer.op.absorb(&*node.op, slot),
                (true, true) => producer.op.absorb_for_training(&*node.op, slot),
                _ => None,
            }
        });
        separate_readers(&mut nodes, &mut outputs);
        let shapes = infer(&nodes, &key.inputs)?;
        let active = find_active(&nodes, key);
        let mut compiled = Self { nodes, shapes, directions: Vec::new(), needs: Vec::new(), active, outputs };
        compiled.directions = compiled.compile(params, key)?;
        compiled.needs = compiled.directions.iter().map(Needs::of).collect();
        Ok(compiled)
    }

    fn compile(&self, params: &Params, key: &TrainingKey) -> Result<Vec<Direction>> {
        let first = self.first_contributions();
        let (mut made, mut known) = (Stretches::default(), Packs::new());
        let directions = run_with(key.threads, |pool| {
            let mut compile = |number: usize, node: &Node| {
                if node.is_input() {
                    return Direction::Input;
                }
                let inputs: Vec<Shape> = node.inputs.iter().map(|&input| self.shapes[input]).collect();
                let parameters: Vec<&[f32]> = node.parameters.iter().map(|&row| params.value(row)).collect();
                known.clear();
                let active = self.active[number];
                let packing =
                    if active { Packing::Own } else { Packing::Shared { known: &mut known, made: &mut made } };
                let mut context = Compile {
                    isa: key.isa,
                    threads: key.threads,
                    pool,
                    precision: key.precision,
                    inputs: &inputs,
                    output: self.shapes[number],
                    parameters: &parameters,
                    packing,
                };
                if !active {
                    return Direction::Forward(node.op.compile(&mut context));
                }
                let wanted: Vec<bool> = node.inputs.iter().map(|&input| self.active[input]).collect();
                let plus = node.inputs.iter().map(|&input| self.active[input] && first[input] != Some(number));
                let plus: Vec<bool> = plus.collect();
                let trains: Vec<bool> = node.parameters.iter().map(|&row| key.trainable[row]).collect();
                let wants = Wants { inputs: &wanted, plus: &plus, parameters: &trains };
                Direction::Both(node.op.compile_for_training(&mut context, wants))
            };
            let catch = |(number, node): (usize, &Node)| {
                let compiled = catch_out_of_memory(|| compile(number, node));
                compiled.map_err(|failed| Error::out_of_memory(&node.name, "packed weights", failed.bytes))
            };
            self.nodes.iter().enumerate().map(catch).collect::<Result<Vec<Direction>>>()
        })?;
        made.finish();
        Ok(directions)
    }

    /// Who contributes first to the gradient of each value: the caller (`None`) if it is an output, else its last reader.
    fn first_contributions(&self) -> Vec<Option<usize>> {
        let mut first = vec![None; self.nodes.len()];
        for (number, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&input| first[input] = Some(number));
        }
        self.outputs.iter().for_each(|&output| first[output] = None);
        first
    }
}

/// Whether a gradient passes the node.
fn is_active(node: &Node, active: &[bool], key: &TrainingKey) -> bool {
    (node.is_input() && key.input_gradients)
        || node.op.is_for_training()
        || node.inputs.iter().any(|&input| active[input])
        || node.parameters.iter().any(|&row| key.trainable[row])
}

fn find_active(nodes: &[Node], key: &TrainingKey) -> Vec<bool> {
    let mut active: Vec<bool> = Vec::with_capacity(nodes.len());
    for node in nodes {
        active.push(is_active(node, &active, key));
    }
    active
}

/// Puts a copy between a value and a node that reads it twice: each slot has a gradient of its own.
fn separate_readers(nodes: &mut Vec<Node>, outputs: &mut [usize]) {
    let mut separated: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut numbers = Vec::with_capacity(nodes.len());
    for mut node in nodes.drain(..) {
        node.inputs.iter_mut().for_each(|input| *input = numbers[*input]);
        for slot in 1..node.inputs.len() {
            let input = node.inputs[slot];
            if node.inputs[..slot].contains(&input) {
                let channels = separated[input].channels;
                let name = format!("{} (input {slot})", node.name);
                let op = Arc::new(Activation::Linear);
                node.inputs[slot] = separated.len();
                separated.push(Node { name, op, inputs: vec![input], parameters: Vec::new(), channels });
            }
        }
        numbers.push(separated.len());
        separated.push(node);
    }
    outputs.iter_mut().for_each(|output| *output = numbers[*output]);
    *nodes = separated;
}
