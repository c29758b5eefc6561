//! Which values are not kept for the steps backward but computed again: time for memory.
//!
//! A value that is dropped when time turns is computed again before the first step backward that needs it, from values that
//! are there or are computed again with it, and then stays until the last one. So no step runs forward more than twice,
//! and the price is at most one more pass forward, about a third of a step.
//!
//! What is dropped is found by trials: one value after the other, the last first, changes sides if memory times time
//! becomes less by it, which the [`Timeline`] tells. There are two beginnings, because several changes may gain where none of
//! them does alone: everything is kept, or what a pass over memory makes again is dropped (norms, activations, sums,
//! concatenations, upsampling: half of most networks).

use super::compile::{Compiled, Direction};
use super::timeline::Timeline;
use crate::graph::memory::place;

/// Operations of a convolution in the time in which a byte is read or written.
const OPERATIONS: f64 = 20.0;

/// A pass over memory takes no longer than to read and write the output so many times.
const PASS: f64 = 8.0;

/// For each node whether its value is dropped.
pub(super) fn choose(network: &Compiled) -> Vec<bool> {
    let prices = Prices::new(network);
    let nothing = vec![false; network.nodes.len()];
    let passes = (0..nothing.len()).map(|node| prices.is_pass(node)).collect();
    let chosen = [nothing.clone(), prices.improve(nothing), prices.improve(passes)];
    // What counts in the end is an arena with gaps.
    let products = chosen.map(|dropped| {
        let timeline = Timeline::new(network, &dropped);
        (place(&timeline.demands).1 as f64 * prices.time(&timeline), dropped)
    });
    let least = products.into_iter().min_by(|(a, _), (b, _)| a.total_cmp(b));
    least.map_or_else(Vec::new, |(_, dropped)| dropped)
}

/// What steps cost, in the time of a byte.
struct Prices<'a> {
    network: &'a Compiled,
    /// Of each step forward; what the caller gives cannot be computed.
    forward: Vec<f64>,
    /// Of both directions.
    step: f64,
}

impl<'a> Prices<'a> {
    fn new(network: &'a Compiled) -> Self {
        let bytes = |node: usize| network.shapes[node].len() as f64 * size_of::<f32>() as f64;
        let price = |node: usize| {
            let flops = match &network.directions[node] {
                Direction::Input => return f64::INFINITY,
                Direction::Forward(step) => step.flops(),
                Direction::Both(step) => step.flops(),
            };
            let inputs: f64 = network.nodes[node].inputs.iter().map(|&input| bytes(input)).sum();
            inputs + bytes(node) + flops as f64 / OPERATIONS
        };
        let forward: Vec<f64> = (0..network.nodes.len()).map(price).collect();
        // The gradients of inputs and of weights cost about as much as the output each.
        let step = 3.0 * forward.iter().filter(|price| price.is_finite()).sum::<f64>();
        Self { network, forward, step }
    }

    fn is_pass(&self, node: usize) -> bool {
        self.forward[node] <= PASS * (self.network.shapes[node].len() * size_of::<f32>()) as f64
    }

    /// Of a step of training.
    fn time(&self, timeline: &Timeline) -> f64 {
        self.step + timeline.again().map(|node| self.forward[node]).sum::<f64>()
    }

    fn product(&self, dropped: &[bool]) -> f64 {
        let timeline = Timeline::new(self.network, dropped);
        timeline.peak() * self.time(&timeline)
    }

    /// Lets every value change sides once.
    fn improve(&self, mut dropped: Vec<bool>) -> Vec<bool> {
        let mut least = self.product(&dropped);
        for node in (0..dropped.len()).rev().filter(|&node| self.forward[node].is_finite()) {
            dropped[node] = !dropped[node];
            let product = self.product(&dropped);
            if product < least {
                least = product;
            } else {
                dropped[node] = !dropped[node];
            }
        }
        dropped
    }
}
