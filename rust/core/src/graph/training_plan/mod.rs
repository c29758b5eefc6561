//! A network planned for training: both directions of every step that a gradient passes, and a place for everything that
//! one of them needs.
//!
//! [`compile`] makes the steps, [`timeline`] puts them in order and says when what is needed, [`recompute`] chooses what is
//! computed again rather than kept.

mod compile;
mod recompute;
mod timeline;

use std::ops::Range;
use std::sync::Arc;

use compile::Compiled;
pub(super) use compile::Direction;
use timeline::Timeline;
pub(super) use timeline::{Action, Port, StepBackward, StepForward};

use super::memory::place;
use super::recent::Recent;
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

/// When everything happens, and where: what takes long to find, and little memory to keep.
pub(super) struct Layout {
    pub(super) forward: Vec<StepForward>,
    pub(super) backward: Vec<Action>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// For each node the demand that its step forward saves into.
    saved: Vec<usize>,
    /// Where in the arena the demands of the steps are met.
    pub(super) places: Vec<Range<usize>>,
    pub(super) arena: usize,
}

impl Layout {
    fn new(network: &Compiled, key: &TrainingKey) -> Self {
        let dropped = if key.recompute { recompute::choose(network) } else { vec![false; network.nodes.len()] };
        let Timeline { forward, backward, inputs, outputs, saved, demands } = Timeline::new(network, &dropped);
        let (places, arena) = place(&demands);
        Self { forward, backward, inputs, outputs, saved, places, arena }
    }
}

/// The layouts of the last few keys. No parameter's value plays a part in them.
pub(super) type Layouts = Recent<TrainingKey, Arc<Layout>>;

/// Everything decided: running it cannot fail.
pub(super) struct TrainingPlan {
    pub(super) key: TrainingKey,
    /// With their packed weights: only the plan in use is worth its memory.
    pub(super) nodes: Vec<TrainingNode>,
    pub(super) layout: Arc<Layout>,
}

impl TrainingPlan {
    pub(super) fn new(graph: &Graph, params: &Params, key: TrainingKey, layouts: &mut Layouts) -> Result<Self> {
        let network = Compiled::new(graph, params, &key)?;
        let layout = match layouts.get(&key) {
            Some(layout) => layout,
            None => layouts.keep(key.clone(), Arc::new(Layout::new(&network, &key))),
        };
        let Compiled { nodes, shapes, directions, .. } = network;
        let nodes = nodes.into_iter().zip(directions).zip(shapes.into_iter().zip(&layout.saved));
        let nodes = nodes.map(|((node, direction), (shape, &saved))| TrainingNode {
            name: node.name,
            direction,
            shape,
            trains: node.parameters.iter().map(|&row| key.trainable[row]).collect(),
            parameters: node.parameters,
            saved: layout.places[saved].clone(),
        });
        let nodes = nodes.collect();
        Ok(Self { key, nodes, layout })
    }

    /// Memory for a run.
    pub(super) fn allocate(&self) -> Result<Buffer> {
        let largest = self.nodes.iter().max_by_key(|node| node.shape.len());
        let name = largest.map_or("the network", |node| node.name.as_str());
        let failed =
            |failed: OutOfMemory| Error::out_of_memory(name, "activations, gradients and scratch memory", failed.bytes);
        Buffer::try_zeroed(self.layout.arena).map_err(failed)
    }
}
