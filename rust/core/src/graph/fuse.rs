//! Rewrites for inference: what no output needs is dropped, as is what only training needs, and an operator whose output
//! has one reader may absorb it.
//!
//! Which pairs can be one operator is theirs to say ([`Op::absorb`]): batch norm into the weights of the convolution before it,
//! residual sums and activations into whatever comes before them.

use std::sync::Arc;

use super::spec::{Graph, Node};
use crate::ops::Op;

/// A rewritten network.
pub(super) struct Fused {
    /// In the order of computation.
    pub(super) nodes: Vec<Node>,
    /// The nodes that were asked for, in the order in which they were.
    pub(super) outputs: Vec<usize>,
}

/// `graph` reduced to what `outputs` need, with every absorption that is possible.
pub(super) fn fuse(graph: &Graph, outputs: &[usize]) -> Fused {
    // For each node the one that has its value: itself, unless it is for training.
    let mut same: Vec<usize> = Vec::with_capacity(graph.nodes().len());
    let mut nodes = graph.nodes().to_vec();
    for (number, node) in nodes.iter_mut().enumerate() {
        node.inputs.iter_mut().for_each(|input| *input = same[*input]);
        same.push(if node.op.is_for_training() { node.inputs[0] } else { number });
    }
    let outputs: Vec<usize> = outputs.iter().map(|&output| same[output]).collect();
    fuse_with(&nodes, &outputs, |producer, node, slot| producer.op.absorb(&*node.op, slot))
}

/// `nodes` reduced to what `outputs` need. `absorb` says what two nodes, of which the second reads the output of the first in
/// that slot, are together.
pub(super) fn fuse_with(
    nodes: &[Node],
    outputs: &[usize],
    absorb: impl Fn(&Node, &Node, usize) -> Option<Box<dyn Op>>,
) -> Fused {
    let readers = count_readers(nodes, outputs);
    // `None` where a node was absorbed, dropped, or not reached yet.
    let mut fused: Vec<Option<Node>> = vec![None; nodes.len()];
    for (number, node) in nodes.iter().enumerate() {
        if readers[number] == 0 && !node.is_input() {
            continue;
        }
        let mut node = node.clone();
        let mut slot = 0;
        while slot < node.inputs.len() {
            let before = node.inputs[slot];
            let merged = match &fused[before] {
                Some(producer) if readers[before] == 1 => {
                    absorb(producer, &node, slot).map(|op| merge(producer, &node, slot, op.into()))
                }
                _ => None,
            };
            match merged {
                // The merged operator stands where its reader stood and is asked again: two may become three.
                Some(merged) => {
                    fused[before] = None;
                    node = merged;
                    break;
                }
                None => slot += 1,
            }
        }
        fused[number] = Some(node);
    }
    compact(fused, outputs)
}

/// How many nodes read each node, an output counting as two so that nothing absorbs it.
fn count_readers(nodes: &[Node], outputs: &[usize]) -> Vec<usize> {
    let mut readers = vec![0; nodes.len()];
    for &output in outputs {
        readers[output] += 2;
    }
    for number in (0..nodes.len()).rev() {
        if readers[number] > 0 {
            for &input in &nodes[number].inputs {
                readers[input] += 1;
            }
        }
    }
    readers
}

fn merge(producer: &Node, reader: &Node, slot: usize, op: Arc<dyn Op>) -> Node {
    let others = reader.inputs.iter().enumerate().filter(|(other, _)| *other != slot).map(|(_, &input)| input);
    Node {
        name: producer.name.clone(),
        op,
        inputs: producer.inputs.iter().copied().chain(others).collect(),
        parameters: producer.parameters.iter().chain(&reader.parameters).copied().collect(),
        channels: reader.channels,
    }
}

/// The nodes that are left, renumbered.
fn compact(fused: Vec<Option<Node>>, outputs: &[usize]) -> Fused {
    let mut numbers = vec![usize::MAX; fused.len()];
    let mut nodes: Vec<Node> = Vec::new();
    for (number, node) in fused.into_iter().enumerate() {
        if let Some(mut node) = node {
            node.inputs.iter_mut().for_each(|input| *input = numbers[*input]);
            numbers[number] = nodes.len();
            nodes.push(node);
        }
    }
    Fused { nodes, outputs: outputs.iter().map(|&output| numbers[output]).collect() }
}
