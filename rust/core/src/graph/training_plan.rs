//! A network planned for training: both directions of every step that a gradient passes, and a place for everything that
//! one of them needs.
//!
//! Time runs through the steps forward, turns, and runs back. A value lives until the last reader has read it, which may
//! be a step backward; a gradient from its first contribution to the step backward of its node. Readers contribute to a
//! gradient in the reverse order of the network: the first writes it, each later one writes a new version of it, which
//! contains the one before.
//!
//! Nodes that no gradient passes, because nothing trainable lies before them, are fused and run as for inference.

use std::ops::Range;
use std::sync::Arc;

use super::fuse::{Fused, fuse_with};
use super::memory::{Demand, place};
use super::spec::{Graph, Node, infer};
use crate::buffer::{Buffer, OutOfMemory, catch_out_of_memory};
use crate::error::{Error, Result};
use crate::ops::{Activation, Compile, Packing, Packs, Precision, Step, Stretches, TrainStep, Wants};
use crate::parallel::run_with;
use crate::params::Params;
use crate::shape::Shape;
use crate::simd::Isa;

/// For what a plan is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrainingKey {
    pub(super) inputs: Vec<Shape>,
    pub(super) outputs: Vec<usize>,
    pub(super) isa: Isa,
    pub(super) threads: usize,
    pub(super) precision: Precision,
    /// One for each parameter.
    pub(super) trainable: Vec<bool>,
    /// Whether the gradients of the inputs are wanted.
    pub(super) input_gradients: bool,
}

/// A node forward, and backward if a gradient passes it.
pub(super) enum Direction {
    /// The caller's value, copied.
    Input,
    Forward(Box<dyn Step>),
    Both(Box<dyn TrainStep>),
}

/// A node with its memory.
pub(super) struct TrainingNode {
    pub(super) name: String,
    pub(super) direction: Direction,
    pub(super) inputs: Vec<usize>,
    pub(super) parameters: Vec<usize>,
    /// Of each parameter, whether its gradient is wanted.
    pub(super) trains: Vec<bool>,
    pub(super) value: Range<usize>,
    pub(super) saved: Range<usize>,
    /// Forward and backward.
    pub(super) scratch: [Range<usize>; 2],
    /// Of each input: the version of its gradient that the step backward writes, and the one before that it contains.
    pub(super) d_inputs: Vec<Option<Version>>,
    /// The last version of its own gradient.
    pub(super) gradient: Option<Range<usize>>,
}

/// A version of a gradient.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) values: Range<usize>,
    pub(super) plus: Option<Range<usize>>,
}

/// Everything decided: running it cannot fail.
pub(super) struct TrainingPlan {
    pub(super) key: TrainingKey,
    pub(super) nodes: Vec<TrainingNode>,
    /// For each output its node, shape, and where its gradient starts, if it has one.
    pub(super) outputs: Vec<(usize, Shape, Option<Version>)>,
    /// The input nodes with their shapes.
    pub(super) inputs: Vec<(usize, Shape)>,
    pub(super) arena: usize,
}

/// A gradient on its way: the demands for its versions, in the order in which they are written.
#[derive(Clone, Debug, Default)]
struct Versions(Vec<usize>);

impl TrainingPlan {
    pub(super) fn new(graph: &Graph, params: &Params, key: TrainingKey) -> Result<Self> {
        graph.infer(&key.inputs)?;
        let mut active = vec![false; graph.nodes().len()];
        for (number, node) in graph.nodes().iter().enumerate() {
            active[number] = is_active(node, &active, &key);
        }
        let is_active_node = |node: &Node| {
            node.op.is_for_training()
                || node.inputs.iter().any(|&input| active[input])
                || node.parameters.iter().any(|&row| key.trainable[row])
        };
        let Fused { mut nodes, mut outputs } = fuse_with(graph.nodes(), &key.outputs, |producer, node, slot| {
            match (is_active_node(producer), is_active_node(node)) {
                (false, false) => producer.op.absorb(&*node.op, slot),
                (true, true) => producer.op.absorb_for_training(&*node.op, slot),
                _ => None,
            }
        });
        separate_readers(&mut nodes, &mut outputs);
        let shapes = infer(&nodes, &key.inputs)?;
        let mut active = vec![false; nodes.len()];
        for number in 0..nodes.len() {
            active[number] = is_active(&nodes[number], &active, &key);
        }

        let contributions = contributions(&nodes, &outputs, &active);
        let directions = compile(&nodes, &shapes, &active, &contributions, params, &key)?;
        let mut demands = Vec::new();
        let mut demand = |length: usize, first: usize, last: usize| {
            demands.push(Demand { length, first, last });
            demands.len() - 1
        };
        // Forward at its number, the turn, backward in the reverse order.
        let turn = nodes.len();
        let back = |number: usize| 2 * turn - number;
        let mut last: Vec<usize> = (0..nodes.len()).collect();
        outputs.iter().for_each(|&output| last[output] = turn);
        for (number, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&input| last[input] = last[input].max(number));
            if let Direction::Both(step) = &directions[number] {
                let keeps = step.keeps();
                for input in keeps.inputs.iter().map(|&slot| node.inputs[slot]) {
                    last[input] = last[input].max(back(number));
                }
                if keeps.output {
                    last[number] = last[number].max(back(number));
                }
            }
        }
        let values: Vec<usize> = (0..nodes.len()).map(|n| demand(shapes[n].len(), n, last[n])).collect();
        let mut rest: Vec<[usize; 3]> = Vec::with_capacity(nodes.len());
        for (number, direction) in directions.iter().enumerate() {
            let (saved, [forward, backward]) = match direction {
                Direction::Input => (0, [0, 0]),
                Direction::Forward(step) => (0, [step.scratch(), 0]),
                Direction::Both(step) => (step.saved(), step.scratch()),
            };
            rest.push([
                demand(saved, number, back(number)),
                demand(forward, number, number),
                demand(backward, back(number), back(number)),
            ]);
        }
        let versions: Vec<Versions> = contributions
            .iter()
            .enumerate()
            .map(|(value, readers)| {
                let times: Vec<usize> =
                    readers.iter().map(|reader| reader.map_or(turn, &back)).chain([back(value)]).collect();
                Versions(times.windows(2).map(|pair| demand(shapes[value].len(), pair[0], pair[1])).collect())
            })
            .collect();

        let (places, arena) = place(&demands);
        let version = |value: usize, reader: Option<usize>| {
            let position = contributions[value].iter().position(|&known| known == reader)?;
            let Versions(numbers) = &versions[value];
            let plus = position.checked_sub(1).map(|before| places[numbers[before]].clone());
            Some(Version { values: places[numbers[position]].clone(), plus })
        };
        let inputs = (0..nodes.len()).filter(|&n| nodes[n].is_input()).map(|n| (n, shapes[n])).collect();
        let outputs = outputs.iter().map(|&output| (output, shapes[output], version(output, None))).collect();
        let nodes = nodes.iter().zip(directions).enumerate().map(|(number, (node, direction))| TrainingNode {
            name: node.name.clone(),
            direction,
            inputs: node.inputs.clone(),
            parameters: node.parameters.clone(),
            trains: node.parameters.iter().map(|&row| key.trainable[row]).collect(),
            value: places[values[number]].clone(),
            saved: places[rest[number][0]].clone(),
            scratch: [places[rest[number][1]].clone(), places[rest[number][2]].clone()],
            d_inputs: node.inputs.iter().map(|&input| version(input, Some(number))).collect(),
            gradient: versions[number].0.last().map(|&last| places[last].clone()),
        });
        let nodes = nodes.collect();
        Ok(Self { key, nodes, outputs, inputs, arena })
    }

    /// Memory for a run.
    pub(super) fn allocate(&self) -> Result<Buffer> {
        let largest = self.nodes.iter().max_by_key(|node| node.value.len());
        let name = largest.map_or("the network", |node| node.name.as_str());
        let failed =
            |failed: OutOfMemory| Error::out_of_memory(name, "activations, gradients and scratch memory", failed.bytes);
        Buffer::try_zeroed(self.arena).map_err(failed)
    }
}

/// Whether a gradient passes the node.
fn is_active(node: &Node, active: &[bool], key: &TrainingKey) -> bool {
    (node.is_input() && key.input_gradients)
        || node.op.is_for_training()
        || node.inputs.iter().any(|&input| active[input])
        || node.parameters.iter().any(|&row| key.trainable[row])
}

/// Who contributes to the gradient of each value, in order: the caller (`None`) if it is an output, then its readers.
fn contributions(nodes: &[Node], outputs: &[usize], active: &[bool]) -> Vec<Vec<Option<usize>>> {
    let mut contributions = vec![Vec::new(); nodes.len()];
    for &output in outputs {
        if active[output] && contributions[output].is_empty() {
            contributions[output].push(None);
        }
    }
    for (number, node) in nodes.iter().enumerate().rev() {
        for &input in node.inputs.iter().filter(|&&input| active[input]) {
            contributions[input].push(Some(number));
        }
    }
    contributions
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

fn compile(
    nodes: &[Node],
    shapes: &[Shape],
    active: &[bool],
    contributions: &[Vec<Option<usize>>],
    params: &Params,
    key: &TrainingKey,
) -> Result<Vec<Direction>> {
    let (mut made, mut known) = (Stretches::default(), Packs::new());
    let directions = run_with(key.threads, |pool| {
        let mut compile = |number: usize, node: &Node| {
            if node.is_input() {
                return Direction::Input;
            }
            let inputs: Vec<Shape> = node.inputs.iter().map(|&input| shapes[input]).collect();
            let parameters: Vec<&[f32]> = node.parameters.iter().map(|&row| params.value(row)).collect();
            known.clear();
            let packing =
                if active[number] { Packing::Own } else { Packing::Shared { known: &mut known, made: &mut made } };
            let (isa, threads, output) = (key.isa, key.threads, shapes[number]);
            let mut context = Compile {
                isa,
                threads,
                pool,
                precision: key.precision,
                inputs: &inputs,
                output,
                parameters: &parameters,
                packing,
            };
            if !active[number] {
                return Direction::Forward(node.op.compile(&mut context));
            }
            let wanted: Vec<bool> = node.inputs.iter().map(|&input| active[input]).collect();
            let first = |input: usize| contributions[input].first() == Some(&Some(number));
            let plus: Vec<bool> = node.inputs.iter().map(|&input| active[input] && !first(input)).collect();
            let trains: Vec<bool> = node.parameters.iter().map(|&row| key.trainable[row]).collect();
            let wants = Wants { inputs: &wanted, plus: &plus, parameters: &trains };
            Direction::Both(node.op.compile_for_training(&mut context, wants))
        };
        let catch = |(number, node): (usize, &Node)| {
            let compiled = catch_out_of_memory(|| compile(number, node));
            compiled.map_err(|failed| Error::out_of_memory(&node.name, "packed weights", failed.bytes))
        };
        nodes.iter().enumerate().map(catch).collect::<Result<Vec<Direction>>>()
    })?;
    made.finish();
    Ok(directions)
}
