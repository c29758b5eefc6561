//! The order of a training step, and how long everything that it needs lives.
//!
//! Time runs through the steps forward, turns, and runs back. A value lives until the last reader has read it, which may
//! be a step backward, unless it is dropped when time turns: then it is computed again before the first step backward that
//! needs it, and lives a second time. What its step forward saves stays. A gradient lives from its first contribution to
//! the step backward of its node. Readers contribute to a gradient in the reverse order of the network: the first writes
//! it, each later one writes a new version of it, which contains the one before.

use std::collections::BTreeSet;

use super::compile::{Compiled, Direction, Needs};
use crate::graph::memory::Demand;

/// A step forward. What it reads and writes are numbers of demands.
pub(in crate::graph) struct StepForward {
    pub(in crate::graph) node: usize,
    pub(in crate::graph) inputs: Vec<usize>,
    pub(in crate::graph) output: usize,
    pub(in crate::graph) scratch: usize,
}

/// A step backward, likewise.
pub(in crate::graph) struct StepBackward {
    pub(in crate::graph) node: usize,
    /// The inputs and the output, if they are kept.
    pub(in crate::graph) inputs: Vec<Option<usize>>,
    pub(in crate::graph) output: Option<usize>,
    /// Of the output.
    pub(in crate::graph) gradient: usize,
    /// Of the inputs that want one.
    pub(in crate::graph) d_inputs: Vec<Option<Version>>,
    pub(in crate::graph) scratch: usize,
}

/// The version of a gradient that a step writes, and the one before, which it contains.
#[derive(Clone, Copy)]
pub(in crate::graph) struct Version {
    pub(in crate::graph) values: usize,
    pub(in crate::graph) plus: Option<usize>,
}

/// What happens after the turn.
pub(in crate::graph) enum Action {
    /// A step forward that has run before.
    Again(StepForward),
    Backward(StepBackward),
}

/// A value that the caller sees, and its gradient if it has one: that of an output as the caller gives it, that of an
/// input as it is in the end.
pub(in crate::graph) struct Port {
    pub(in crate::graph) node: usize,
    pub(in crate::graph) value: usize,
    pub(in crate::graph) gradient: Option<usize>,
}

/// What happens, and when what is needed.
pub(super) struct Timeline {
    pub(super) forward: Vec<StepForward>,
    pub(super) backward: Vec<Action>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// For each node what its step forward saves for the one backward.
    pub(super) saved: Vec<usize>,
    pub(super) demands: Vec<Demand>,
}

impl Timeline {
    /// `dropped` says of each node whether its value does not survive the turn.
    pub(super) fn new(network: &Compiled, dropped: &[bool]) -> Self {
        let mut clock = Clock::new(network);
        let nodes = network.nodes.len();
        let forward: Vec<StepForward> = (0..nodes).map(|node| clock.forward(node)).collect();
        let outputs: Vec<Port> = network.outputs.iter().map(|&node| clock.turn(node)).collect();
        clock.time += 1;
        (clock.values.iter_mut().zip(dropped)).filter(|(_, dropped)| **dropped).for_each(|(value, _)| *value = None);
        let mut backward = Vec::with_capacity(2 * nodes);
        (0..nodes).rev().for_each(|node| clock.backward(node, &mut backward));
        let inputs = (0..nodes).filter(|&node| network.nodes[node].is_input());
        let inputs = inputs.map(|node| clock.end(node, forward[node].output)).collect();
        Self { forward, backward, inputs, outputs, saved: clock.saved, demands: clock.demands }
    }

    /// The nodes that are computed again.
    pub(super) fn again(&self) -> impl Iterator<Item = usize> {
        self.backward.iter().filter_map(|action| match action {
            Action::Again(step) => Some(step.node),
            Action::Backward(_) => None,
        })
    }

    /// The elements that are needed at once.
    pub(super) fn peak(&self) -> f64 {
        let end = self.demands.iter().map(|demand| demand.last).max().unwrap_or(0);
        // What comes and goes at each time.
        let mut changes = vec![0.0; end + 2];
        for Demand { length, first, last } in &self.demands {
            changes[*first] += *length as f64;
            changes[last + 1] -= *length as f64;
        }
        let mut needed = 0.0;
        changes.iter().fold(0.0, |peak, change| {
            needed += change;
            f64::max(peak, needed)
        })
    }
}

/// Goes through the steps in their order.
struct Clock<'a> {
    network: &'a Compiled,
    time: usize,
    demands: Vec<Demand>,
    /// For each node its value, if it is there.
    values: Vec<Option<usize>>,
    saved: Vec<usize>,
    /// For each node the last version of its gradient.
    gradients: Vec<Option<usize>>,
}

impl<'a> Clock<'a> {
    fn new(network: &'a Compiled) -> Self {
        let nodes = network.nodes.len();
        let (time, demands, gradients) = (0, Vec::new(), vec![None; nodes]);
        Self { network, time, demands, values: Vec::with_capacity(nodes), saved: Vec::with_capacity(nodes), gradients }
    }

    /// Something that is needed now.
    fn demand(&mut self, length: usize) -> usize {
        self.demands.push(Demand { length, first: self.time, last: self.time });
        self.demands.len() - 1
    }

    /// Something that is there, and needed now.
    fn read(&mut self, demand: usize) -> usize {
        self.demands[demand].last = self.time;
        demand
    }

    fn value(&mut self, node: usize) -> usize {
        let value = self.values[node].expect("a value is computed before it is read");
        self.read(value)
    }

    /// The first time.
    fn forward(&mut self, node: usize) -> StepForward {
        let saved = self.demand(self.network.needs[node].saved);
        self.saved.push(saved);
        self.values.push(None);
        let step = self.compute(node);
        if self.network.nodes[node].is_input() {
            // The caller's values are there from the beginning.
            self.demands[step.output].first = 0;
        }
        step
    }

    fn compute(&mut self, node: usize) -> StepForward {
        let network = self.network;
        let inputs = network.nodes[node].inputs.iter().map(|&input| self.value(input)).collect();
        let lengths = [network.shapes[node].len(), network.needs[node].scratch[0]];
        let [output, scratch] = lengths.map(|length| self.demand(length));
        self.values[node] = Some(output);
        self.time += 1;
        StepForward { node, inputs, output, scratch }
    }

    /// Computes what is not there of `wanted`, and of what that takes, in the order of the network.
    fn compute_again(&mut self, mut wanted: Vec<usize>, actions: &mut Vec<Action>) {
        let mut missing = BTreeSet::new();
        while let Some(node) = wanted.pop() {
            if self.values[node].is_none() && missing.insert(node) {
                wanted.extend(&self.network.nodes[node].inputs);
            }
        }
        actions.extend(missing.into_iter().map(|node| Action::Again(self.compute(node))));
    }

    /// An output is copied to the caller, and its gradient comes from there.
    fn turn(&mut self, node: usize) -> Port {
        let value = self.value(node);
        if self.network.active[node] && self.gradients[node].is_none() {
            self.gradients[node] = Some(self.demand(self.network.shapes[node].len()));
        }
        Port { node, value, gradient: self.gradients[node] }
    }

    fn backward(&mut self, node: usize, actions: &mut Vec<Action>) {
        let network = self.network;
        let (Direction::Both(_), Some(gradient)) = (&network.directions[node], self.gradients[node]) else {
            return;
        };
        let (Needs { keeps, scratch, .. }, inputs) = (&network.needs[node], &network.nodes[node].inputs);
        let wanted = keeps.inputs.iter().map(|&slot| inputs[slot]);
        self.compute_again(wanted.chain(keeps.output.then_some(node)).collect(), actions);
        let gradient = self.read(gradient);
        self.read(self.saved[node]);
        let output = keeps.output.then(|| self.value(node));
        let kept = inputs.iter().enumerate();
        let kept = kept.map(|(slot, &input)| keeps.inputs.contains(&slot).then(|| self.value(input))).collect();
        let d_inputs = inputs.iter().map(|&input| network.active[input].then(|| self.contribute(input))).collect();
        let scratch = self.demand(scratch[1]);
        self.time += 1;
        actions.push(Action::Backward(StepBackward { node, inputs: kept, output, gradient, d_inputs, scratch }));
    }

    /// A new version of a gradient.
    fn contribute(&mut self, node: usize) -> Version {
        let plus = self.gradients[node].map(|before| self.read(before));
        let values = self.demand(self.network.shapes[node].len());
        self.gradients[node] = Some(values);
        Version { values, plus }
    }

    /// An input, whose gradient the caller reads when everything has happened.
    fn end(&mut self, node: usize, value: usize) -> Port {
        let gradient = self.gradients[node].map(|gradient| self.read(gradient));
        Port { node, value, gradient }
    }
}
