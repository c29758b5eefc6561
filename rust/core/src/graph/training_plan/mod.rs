//! A network planned for training: both directions of every step that a gradient passes, and a place for everything that
//! one of them needs.
//!
//! [`compile`] makes the steps, [`timeline`] puts them in order and says when what is needed, [`recompute`] chooses what is
//! computed again rather than kept.

mod compile;
mod recompute;
mod timeline;

use std::ops::Range;

use compile::Compiled;
pub(super) use compile::Direction;
use timeline::Timeline;
pub(super) use timeline::{Action, Port, StepBackward, StepForward};

use super::memory::place;
use super::spec::Graph;
use crate::buffer::{Buffer, OutOfMemory};
use crate::error::{Error, Result};
use crate::ops::Precision;
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
    /// Whether values may be computed again.
    pub(super) recompute: bool,
}

/// A node that is compiled.
pub(super) struct TrainingNode {
    pub(super) name: String,
    pub(super) direction: Direction,
    pub(super) shape: Shape,
    pub(super) parameters: Vec<usize>,
    /// Of each parameter, whether its gradient is wanted.
    pub(super) trains: Vec<bool>,
    /// Where what its step forward saves is.
    pub(super) saved: Range<usize>,
}

/// Everything decided: running it cannot fail.
pub(super) struct TrainingPlan {
    pub(super) key: TrainingKey,
    pub(super) nodes: Vec<TrainingNode>,
    pub(super) forward: Vec<StepForward>,
    pub(super) backward: Vec<Action>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// Where in the arena the demands of the steps are met.
    pub(super) places: Vec<Range<usize>>,
    pub(super) arena: usize,
}

impl TrainingPlan {
    pub(super) fn new(graph: &Graph, params: &Params, key: TrainingKey) -> Result<Self> {
        let network = Compiled::new(graph, params, &key)?;
        let dropped = if key.recompute { recompute::choose(&network) } else { vec![false; network.nodes.len()] };
        let Timeline { forward, backward, inputs, outputs, saved, demands } = Timeline::new(&network, &dropped);
        let (places, arena) = place(&demands);
        let Compiled { nodes, shapes, directions, .. } = network;
        let nodes = nodes.into_iter().zip(directions).zip(shapes.into_iter().zip(saved));
        let nodes = nodes.map(|((node, direction), (shape, saved))| TrainingNode {
            name: node.name,
            direction,
            shape,
            trains: node.parameters.iter().map(|&row| key.trainable[row]).collect(),
            parameters: node.parameters,
            saved: places[saved].clone(),
        });
        let nodes = nodes.collect();
        Ok(Self { key, nodes, forward, backward, inputs, outputs, places, arena })
    }

    /// Memory for a run.
    pub(super) fn allocate(&self) -> Result<Buffer> {
        let largest = self.nodes.iter().max_by_key(|node| node.shape.len());
        let name = largest.map_or("the network", |node| node.name.as_str());
        let failed =
            |failed: OutOfMemory| Error::out_of_memory(name, "activations, gradients and scratch memory", failed.bytes);
        Buffer::try_zeroed(self.arena).map_err(failed)
    }
}
