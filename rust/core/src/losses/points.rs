//! Losses of single points: cross-entropies, their focal variants, the squared error.
//!
//! With `t` the target of a channel (smoothed: `t (1 - s) + s / c`, binary `+ s / 2`), `p` its probability, `w` its class
//! weight, the value of a point is
//!
//! - categorical: `v = sum of w t (-ln p)`. From logits `-ln p[k] = ln(sum of e^y) - y[k]`, and since
//!   `d(-ln p[k]) / dy[j] = p[j] - [j = k]`: `dv / dy[j] = (sum of w t) p[j] - w[j] t[j]`.
//! - binary: `v = mean of w1 t (-ln p) + w0 (1 - t) (-ln(1 - p))`. From logits `-ln p = ln(1 + e^-y)`, and
//!   `c dv / dy = w0 (1 - t) p - w1 t (1 - p)`.
//! - focal: the terms of both times `a (1 - q)^g`, where `q` is the probability of what is true;
//!   `d/dq [(1 - q)^g (-ln q)] = g (1 - q)^(g - 1) ln q - (1 - q)^g / q`.
//! - squared error: `v = mean of w (y - t)²`, `c dv / dy = 2 w (y - t)`.
//!
//! Probabilities that are given (and those of focal losses) are bounded to `epsilon ..= 1 - epsilon`, where the gradient
//! ends; given class probabilities are first divided by their sum, as Keras does.

use super::block::{Block, Link, POINTS, Sums, lanes, store};
use super::weights::Weights;
use super::{Form, Problem};
use crate::parallel::Pool;
use crate::pieces;
use crate::simd::slices::load;
use crate::simd::{Kernel, Simd, dispatch, math};

/// What Keras bounds probabilities with.
const EPSILON: f32 = 1e-7;

/// Points of a task: whole blocks.
const SLAB: usize = 1024;

/// What the value of a channel is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Measure {
    CrossEntropy,
    /// `alpha` of what is true; for a binary loss `1 - alpha` of what is not, if balanced.
    Focal {
        gamma: f32,
        alpha: f32,
        balanced: bool,
    },
    SquaredError,
}

#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) measure: Measure,
    pub(super) form: Form,
    pub(super) from_logits: bool,
    pub(super) smoothing: f32,
    /// Channels that count, all if there are none; for binary losses.
    pub(super) channels: Option<Vec<usize>>,
    /// Whether class weights are by channel in a binary loss too, not those of negatives and positives.
    pub(super) by_channel: bool,
}

impl Term {
    /// Whether class weights are those of negatives and positives.
    pub(super) fn binary(&self) -> bool {
        self.form == Form::Binary && !self.by_channel
    }

    fn link(&self) -> Link {
        match (self.measure, self.form, self.from_logits) {
            (Measure::SquaredError, ..) | (_, Form::Binary, false) => Link::Identity,
            (_, Form::Binary, true) => Link::Sigmoid,
            (_, _, true) => Link::Softmax,
            (_, _, false) => Link::Normalise,
        }
    }

    /// Fills `values` and adds nothing: `d_y` becomes `scale` times the gradient of the weighted sum of the values, which
    /// is returned.
    pub(super) fn evaluate(
        &self,
        problem: Problem<'_>,
        pool: &Pool,
        weights: &Weights<'_>,
        scale: f64,
        (values, d_y): (&mut [f32], &mut [f32]),
    ) -> f64 {
        let c = problem.shape.c;
        let mut sums = vec![0.0; values.len().div_ceil(SLAB)];
        let slabs = values.chunks_mut(SLAB).zip(d_y.chunks_mut(SLAB * c)).zip(&mut sums);
        pieces::for_each(pool, slabs.collect(), |slab, ((values, d_y), sum)| {
            let first = slab * SLAB;
            *sum = dispatch(problem.isa, Slab { term: self, problem, weights, scale, first, values, d_y });
        });
        sums.iter().sum()
    }

    /// The value of one channel and its derivative, for a probability `p` (or an output, for the squared error).
    #[inline(always)]
    fn channel(&self, t: f32, p: f32, [negative, positive]: [f32; 2]) -> (f32, f32) {
        if self.measure == Measure::SquaredError {
            return (positive * (p - t) * (p - t), 2.0 * positive * (p - t));
        }
        let q = p.clamp(EPSILON, 1.0 - EPSILON);
        let (mut value, mut slope) = (0.0, 0.0);
        if t != 0.0 {
            let (v, d) = self.surprise(q, true);
            (value, slope) = (positive * t * v, positive * t * d);
        }
        if self.form == Form::Binary && t != 1.0 {
            let (v, d) = self.surprise(1.0 - q, false);
            (value, slope) = (value + negative * (1.0 - t) * v, slope - negative * (1.0 - t) * d);
        }
        // Beyond the bounds nothing changes.
        (value, if p == q || p.is_nan() { slope } else { 0.0 })
    }

    /// `-ln q`, or its focal variant, and the derivative by `q`.
    #[inline(always)]
    fn surprise(&self, q: f32, positive: bool) -> (f32, f32) {
        let Measure::Focal { gamma, alpha, balanced } = self.measure else { return (-q.ln(), -1.0 / q) };
        let alpha = match (balanced, positive) {
            (true, true) => alpha,
            (true, false) => 1.0 - alpha,
            (false, _) => 1.0,
        };
        let rest = 1.0 - q;
        let power = rest.powf(gamma);
        (-alpha * power * q.ln(), alpha * (gamma * rest.powf(gamma - 1.0) * q.ln() - power / q))
    }
}

struct Slab<'a> {
    term: &'a Term,
    problem: Problem<'a>,
    weights: &'a Weights<'a>,
    scale: f64,
    first: usize,
    values: &'a mut [f32],
    d_y: &'a mut [f32],
}

/// What is computed with, block after block.
struct Scratch {
    y: Block,
    p: Block,
    t: Block,
    d: Block,
}

impl Kernel for Slab<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let c = self.problem.shape.c;
        let block = || Block::new(c);
        let mut scratch = Scratch { y: block(), p: block(), t: block(), d: block() };
        let link = self.term.link();
        let direct = self.term.from_logits && self.term.measure == Measure::CrossEntropy;
        let mean = if self.term.form == Form::Binary {
            1.0 / self.term.channels.as_ref().map_or(c, Vec::len) as f32
        } else {
            1.0
        };
        let mut sum = 0.0;
        for start in (0..self.values.len()).step_by(POINTS) {
            let count = POINTS.min(self.values.len() - start);
            let first = self.first + start;
            let rows = &self.problem.y[first * c..][..count * c];
            scratch.y.read(rows);
            scratch.p.read(rows);
            let mask = self.problem.truth.read(first, count, &mut scratch.t);
            self.smooth(&mut scratch.t);
            let sums = link.forward(s, &mut scratch.p);
            let mut values = match (direct, self.term.form) {
                (true, Form::Binary) => self.binary(s, &mut scratch),
                (true, _) => self.categorical(s, &mut scratch, &sums),
                (false, _) => {
                    let values = self.probable(&mut scratch);
                    link.backward(s, &scratch.p, &sums, &mut scratch.d);
                    values
                }
            };
            let mut factors = [0.0; POINTS];
            for point in (0..count).filter(|&point| mask[point] != 0.0) {
                let weight = self.weights.at(first + point);
                values[point] *= mean;
                sum += weight * f64::from(values[point]);
                factors[point] = (weight * self.scale) as f32 * mean;
            }
            for column in scratch.d.columns_mut() {
                for ((d, &factor), &mask) in column.iter_mut().zip(&factors).zip(&mask) {
                    *d = if mask == 0.0 { 0.0 } else { *d * factor };
                }
            }
            for point in 0..count {
                self.values[start + point] = if mask[point] == 0.0 { 0.0 } else { values[point] };
            }
            scratch.d.write(&mut self.d_y[start * c..(start + count) * c]);
        }
        sum
    }
}

impl Slab<'_> {
    #[inline(always)]
    fn smooth(&self, t: &mut Block) {
        let smoothing = self.term.smoothing;
        if smoothing == 0.0 {
            return;
        }
        let classes = if self.term.form == Form::Binary { 2.0 } else { t.columns().len() as f32 };
        for t in t.columns_mut().iter_mut().flatten() {
            *t = *t * (1.0 - smoothing) + smoothing / classes;
        }
    }

    /// The weights of negatives and positives in channel `k`; both 0 where it does not count.
    #[inline(always)]
    fn class_weights(&self, k: usize) -> [f32; 2] {
        let counts = self.term.channels.as_ref().is_none_or(|channels| channels.contains(&k));
        match self.problem.class_weights {
            _ if !counts => [0.0; 2],
            None => [1.0; 2],
            Some(weights) if self.term.binary() => [weights[0], weights[1]],
            Some(weights) => [weights[k]; 2],
        }
    }

    /// Cross-entropy of logits: `p` is the softmax.
    #[inline(always)]
    fn categorical<S: Simd>(&self, s: S, scratch: &mut Scratch, sums: &Sums) -> [f32; POINTS] {
        let mut values = [0.0; POINTS];
        let logarithms = sums.divisor.map(f32::ln);
        for at in lanes::<S>() {
            let (zero, largest, logarithm) = (s.splat(0.0), load(s, &sums.largest[at..]), load(s, &logarithms[at..]));
            let (mut value, mut total) = (zero, zero);
            for (k, (t, y)) in scratch.t.columns_mut().iter_mut().zip(scratch.y.columns()).enumerate() {
                let t_k = s.mul(load(s, &t[at..]), s.splat(self.class_weights(k)[1]));
                store(s, t, at, t_k);
                total = s.add(total, t_k);
                let surprise = s.sub(logarithm, s.sub(load(s, &y[at..]), largest));
                // 0 times the infinity of an excluded class would be NaN.
                let term = s.select(s.less(zero, s.abs(t_k)), s.mul(t_k, surprise), zero);
                value = s.add(value, term);
            }
            store(s, &mut values, at, value);
            for ((d, p), t) in scratch.d.columns_mut().iter_mut().zip(scratch.p.columns()).zip(scratch.t.columns()) {
                store(s, d, at, s.sub(s.mul(total, load(s, &p[at..])), load(s, &t[at..])));
            }
        }
        values
    }

    /// Binary cross-entropy of logits: `p` is the sigmoid.
    #[inline(always)]
    fn binary<S: Simd>(&self, s: S, scratch: &mut Scratch) -> [f32; POINTS] {
        let mut values = [0.0; POINTS];
        for k in 0..scratch.y.columns().len() {
            let [negative, positive] = self.class_weights(k);
            let (y, p, t) = (&scratch.y.columns()[k], &scratch.p.columns()[k], &scratch.t.columns()[k]);
            let mut tails = [0.0; POINTS];
            for at in lanes::<S>() {
                let magnitude = s.abs(load(s, &y[at..]));
                store(s, &mut tails, at, math::exp(s, s.sub(s.splat(0.0), magnitude)));
            }
            let d = &mut scratch.d.columns_mut()[k];
            for i in 0..POINTS {
                // ln(1 + e^y) is this and the larger of y and 0; ln(1 + e^-y) this and the larger of -y and 0.
                let tail = tails[i].ln_1p();
                let (yes, no) = (positive * t[i], negative * (1.0 - t[i]));
                values[i] += yes * (tail + (-y[i]).max(0.0)) + no * (tail + y[i].max(0.0));
                d[i] = no * p[i] - yes * (1.0 - p[i]);
            }
        }
        values
    }

    /// Losses of probabilities, and the squared error.
    #[inline(always)]
    fn probable(&self, scratch: &mut Scratch) -> [f32; POINTS] {
        let mut values = [0.0; POINTS];
        for k in 0..scratch.p.columns().len() {
            let weights = self.class_weights(k);
            let (p, t) = (&scratch.p.columns()[k], &scratch.t.columns()[k]);
            let d = &mut scratch.d.columns_mut()[k];
            for i in 0..POINTS {
                let (value, slope) = self.term.channel(t[i], p[i], weights);
                values[i] += value;
                d[i] = slope;
            }
        }
        values
    }
}
