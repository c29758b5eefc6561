//! A network planned for given input shapes: fused, every step compiled, every activation placed.

use std::collections::HashMap;
use std::ops::Range;

use super::fuse::{Fused, fuse};
use super::memory::{Demand, place, share};
use super::spec::{Graph, Node, infer};
use crate::buffer::{LINE, catch_out_of_memory};
use crate::error::{Error, Result};
use crate::ops::{Compile, Packing, Packs, Precision, Step, Stretches};
use crate::parallel::run_with;
use crate::params::Params;
use crate::shape::Shape;
use crate::simd::Isa;

/// Packed weights of a network, by the parameters that they hold.
pub(super) type PacksOfNodes = HashMap<Vec<usize>, Packs>;

/// For whom a plan is made: two plans with the same key are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) inputs: Vec<Shape>,
    pub(super) outputs: Vec<usize>,
    pub(super) isa: Isa,
    pub(super) threads: usize,
    pub(super) precision: Precision,
}

/// Where a value is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The caller's memory: the input of that number.
    Caller(usize),
    /// The arena.
    Arena(Range<usize>),
    /// Where the output of the step that reads it will be.
    Output,
}

/// A step with its memory.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) step: Box<dyn Step>,
    pub(super) inputs: Vec<Place>,
    pub(super) output: Range<usize>,
    pub(super) scratch: Range<usize>,
    pub(super) shape: Shape,
}

/// Everything decided: running it cannot fail.
pub struct Plan {
    pub(super) steps: Vec<Planned>,
    pub(super) outputs: Vec<(Place, Shape)>,
    pub(super) arena: usize,
    pub(super) threads: usize,
}

impl Plan {
    /// The step that takes the most memory by itself.
    pub(super) fn largest(&self) -> &str {
        let largest = self.steps.iter().max_by_key(|step| step.output.len().max(step.scratch.len()));
        largest.map_or("the network", |step| &step.name)
    }

    pub(super) fn new(graph: &Graph, params: &Params, packs: &mut PacksOfNodes, key: &Key) -> Result<Self> {
        // The network as written names the node that is to blame; the fused one has others.
        graph.infer(&key.inputs)?;
        let Fused { nodes, outputs } = fuse(graph, &key.outputs);
        let shapes = infer(&nodes, &key.inputs)?;

        let mut made = Stretches::default();
        let out_of_memory = |node: &str, bytes| Error::out_of_memory(node, "packed weights", bytes);
        let steps = run_with(key.threads, |pool| {
            let compile = |(node, &output): (&Node, &Shape)| {
                let inputs: Vec<Shape> = node.inputs.iter().map(|&input| shapes[input]).collect();
                let parameters: Vec<&[f32]> = node.parameters.iter().map(|&number| params.value(number)).collect();
                let known = packs.entry(node.parameters.clone()).or_default();
                let mut context = Compile {
                    isa: key.isa,
                    threads: key.threads,
                    pool,
                    precision: key.precision,
                    inputs: &inputs,
                    output,
                    parameters: &parameters,
                    packing: Packing::Shared { known, made: &mut made },
                };
                let compile = (!node.is_input()).then(|| catch_out_of_memory(|| node.op.compile(&mut context)));
                compile.transpose().map_err(|failed| out_of_memory(&node.name, failed.bytes))
            };
            nodes.iter().zip(&shapes).map(compile).collect::<Result<Vec<Option<Box<dyn Step>>>>>()
        })?;
        made.finish();

        let mut demands: Vec<Demand> = shapes
            .iter()
            .enumerate()
            .map(|(number, shape)| Demand { length: shape.len(), first: number, last: number })
            .collect();
        for (number, node) in nodes.iter().enumerate() {
            for &input in &node.inputs {
                demands[input].last = number;
            }
            if node.is_input() {
                demands[number].length = 0;
            }
        }
        for &output in &outputs {
            demands[output].last = nodes.len();
        }
        let in_place = |step: &Option<Box<dyn Step>>| step.as_ref().and_then(|step| step.in_place());
        let reads: Vec<(&[usize], Option<usize>)> =
            nodes.iter().zip(&steps).map(|(node, step)| (node.inputs.as_slice(), in_place(step))).collect();
        let owners = share(&mut demands, &reads);
        let scratches = steps.iter().enumerate().map(|(number, step)| Demand {
            length: step.as_ref().map_or(0, |step| step.scratch()),
            first: number,
            last: number,
        });
        demands.extend(scratches);
        // Wherever they are placed, the arena is no longer than all of them with a line between each.
        let lengths = demands.iter().map(|demand| demand.length.checked_add(LINE));
        if lengths.flatten().try_fold(0, usize::checked_add).is_none_or(|length| length > isize::MAX as usize / 8) {
            let largest = (0..demands.len()).max_by_key(|&number| demands[number].length).unwrap_or(0);
            let message = "activations and scratch memory cannot be addressed".into();
            return Err(Error::Memory { node: nodes[largest % nodes.len()].name.clone(), message });
        }
        let (places, arena) = place(&demands);

        let mut callers = 0..;
        let values: Vec<Place> = nodes
            .iter()
            .zip(&owners)
            .map(|(node, &owner)| {
                if node.is_input() {
                    Place::Caller(callers.next().unwrap_or(0))
                } else {
                    Place::Arena(places[owner].clone())
                }
            })
            .collect();
        let planned = steps.into_iter().zip(&nodes).enumerate().filter_map(|(number, (step, node))| {
            Some(Planned {
                name: node.name.clone(),
                step: step?,
                inputs: (node.inputs.iter())
                    .map(|&input| if owners[input] == owners[number] { Place::Output } else { values[input].clone() })
                    .collect(),
                output: places[owners[number]].clone(),
                scratch: places[nodes.len() + number].clone(),
                shape: shapes[number],
            })
        });
        Ok(Self {
            steps: planned.collect(),
            outputs: outputs.iter().map(|&output| (values[output].clone(), shapes[output])).collect(),
            arena,
            threads: key.threads,
        })
    }
}

/// Bytes of activations at the widest place of a network, scratch and packed weights left out.
pub(super) fn activation_bytes(graph: &Graph, inputs: &[Shape], outputs: &[usize]) -> Result<usize> {
    let Fused { nodes, outputs } = fuse(graph, outputs);
    let shapes = infer(&nodes, inputs)?;
    let mut last: Vec<usize> = (0..nodes.len()).collect();
    for (number, node) in nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&input| last[input] = number);
    }
    outputs.iter().for_each(|&output| last[output] = nodes.len());
    let alive = |step: usize| {
        (0..=step).filter(|&value| last[value] >= step).map(|value| shapes[value].len()).fold(0, usize::saturating_add)
    };
    Ok((0..nodes.len()).map(alive).max().unwrap_or(0).saturating_mul(size_of::<f32>()))
}
