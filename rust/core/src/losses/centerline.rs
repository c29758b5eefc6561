//! clDice: how much of each skeleton lies inside the other mask.
//!
//! For each sample and class, with `q` the bounded probability and `t` the target where a point counts and 0 elsewhere,
//! `S` the soft skeleton, `s` = smooth:
//!
//! `precision = (sum of S(q) t + s) / (sum of S(q) + s)`, `sensitivity = (sum of S(t) q + s) / (sum of S(t) + s)`,
//! `v = 1 - 2 precision sensitivity / (precision + sensitivity)`.
//!
//! Backward: `dv / dprecision = -2 sensitivity² / (precision + sensitivity)²` and the same the other way round; with
//! `A / B` = precision, `dv / dS(q) = dv/dprecision (t / B - A / B²)`, which goes through the skeleton, and directly
//! `dv / dq = dv/dsensitivity S(t) / (sum of S(t) + s)`.

use super::block::{Block, POINTS, Sums};
use super::region::Probabilities;
use super::skeleton::Maps;
use super::weights::Weights;
use super::{Problem, Result};
use crate::buffer::OutOfMemory;
use crate::error::Error;
use crate::parallel::Pool;
use crate::pieces::{self, CHUNK, Place};
use crate::simd::{Kernel, Simd, dispatch};

#[derive(Clone, Debug)]
pub(super) struct Centerline {
    pub(super) probabilities: Probabilities,
    pub(super) iterations: usize,
    /// Whether what backward needs is kept instead of computed again.
    pub(super) keep_all: bool,
}

impl Centerline {
    pub(super) fn classes(&self, c: usize) -> Vec<usize> {
        self.probabilities.classes(c)
    }

    /// The values; `d_y` becomes `scale` times the gradient of their weighted sum.
    pub(super) fn evaluate(
        &self,
        problem: Problem<'_>,
        place: Place<'_>,
        weights: &Weights<'_>,
        scale: f64,
        d_y: &mut [f32],
    ) -> Result<Vec<f64>> {
        let memory = |failed: OutOfMemory| Error::out_of_memory("cldice", "the skeletons of a loss", failed.bytes);
        let classes = self.classes(problem.shape.c);
        let mut values = Vec::new();
        for (n, rows) in d_y.chunks_mut(problem.shape.sample()).enumerate() {
            self.probabilities(problem, place.pool, n, rows);
            let mut gradients = Vec::new();
            for &class in &classes {
                let weight = problem.class_weights.map_or(1.0, |weights| f64::from(weights[class]));
                let factor = weight * weights.at(values.len()) * scale;
                let (value, gradient) = self.class(problem, place, [n, class], rows, factor).map_err(memory)?;
                values.push(weight * value);
                gradients.push(gradient);
            }
            let chunks = rows.chunks_mut(CHUNK / POINTS * POINTS * problem.shape.c);
            pieces::for_each(place.pool, chunks.collect(), |chunk, rows| {
                let first = chunk * (CHUNK / POINTS * POINTS);
                let gradients = Gradients { loss: self, classes: &classes, maps: &gradients, first };
                dispatch(problem.isa, Backward { gradients, c: problem.shape.c, rows });
            });
        }
        Ok(values)
    }

    /// Fills `rows` with the probabilities of sample `n`.
    fn probabilities(&self, problem: Problem<'_>, pool: &Pool, n: usize, rows: &mut [f32]) {
        let c = problem.shape.c;
        let points = CHUNK / POINTS * POINTS;
        pool.for_each_chunk(rows, points * c, |chunk, rows| {
            let y = &problem.y[n * problem.shape.sample() + chunk * points * c..][..rows.len()];
            dispatch(problem.isa, Forward { loss: self, c, y, rows });
        });
    }

    /// The value of one class of sample `n`, whose probabilities are in `rows`, and `factor` times its gradient by `q`.
    fn class(
        &self,
        problem: Problem<'_>,
        place: Place<'_>,
        [n, class]: [usize; 2],
        rows: &[f32],
        factor: f64,
    ) -> std::result::Result<(f64, Vec<f32>), OutOfMemory> {
        let (c, spatial, pool) = (problem.shape.c, problem.shape.spatial(), place.pool);
        let maps = Maps { dims: problem.shape.dims(), place };
        let (mut q, mut t) = (crate::buffer::zeros(spatial)?, crate::buffer::zeros(spatial)?);
        let chunks = q.chunks_mut(CHUNK).zip(t.chunks_mut(CHUNK));
        pieces::for_each(pool, chunks.collect(), |chunk, (q, t)| {
            let mut block = Block::new(c);
            for start in (0..q.len()).step_by(POINTS) {
                let count = POINTS.min(q.len() - start);
                let first = chunk * CHUNK + start;
                let mask = problem.truth.read(n * spatial + first, count, &mut block);
                for i in 0..count {
                    let p = rows[(first + i) * c + class];
                    q[start + i] = if mask[i] == 0.0 { 0.0 } else { self.probabilities.bounded(p) };
                    t[start + i] = block.columns()[class][i];
                }
            }
        });
        let sum = |a: &[f32], b: Option<&[f32]>| {
            pieces::sum(pool, spatial.div_ceil(CHUNK), |task| {
                let range = task * CHUNK..spatial.min((task + 1) * CHUNK);
                let product = |i: usize| f64::from(a[i]) * b.map_or(1.0, |b| f64::from(b[i]));
                range.map(product).sum()
            })
        };
        let s = f64::from(self.probabilities.smooth);
        let (of_truth, _) = maps.skeleton(t.clone(), self.iterations, true)?;
        let (of_guess, kept) = maps.skeleton(q.clone(), self.iterations, self.keep_all)?;
        let (a, b) = (sum(&of_guess, Some(&t)) + s, sum(&of_guess, None) + s);
        let (found, truth) = (sum(&of_truth, Some(&q)) + s, sum(&of_truth, None) + s);
        let (precision, sensitivity) = (a / b, found / truth);
        let both = precision + sensitivity;
        let by_precision = -2.0 * (sensitivity / both).powi(2) * factor;
        let by_sensitivity = -2.0 * (precision / both).powi(2) * factor;
        let (inside, everywhere) = ((by_precision / b) as f32, (by_precision * a / (b * b)) as f32);
        pool.for_each_chunk(&mut t, CHUNK, |_, t| t.iter_mut().for_each(|t| *t = *t * inside - everywhere));
        let mut gradient = maps.backward(&kept, t)?;
        let direct = (by_sensitivity / truth) as f32;
        pool.for_each_chunk(&mut gradient, CHUNK, |chunk, gradient| {
            for (d, skeleton) in gradient.iter_mut().zip(&of_truth[chunk * CHUNK..]) {
                *d += direct * skeleton;
            }
        });
        // A point that does not count has probability 0 here, whatever the network says.
        pool.for_each_chunk(&mut gradient, CHUNK, |chunk, gradient| {
            for (i, d) in gradient.iter_mut().enumerate() {
                *d = if problem.truth.counts(n * spatial + chunk * CHUNK + i) { *d } else { 0.0 };
            }
        });
        Ok((1.0 - 2.0 * precision * sensitivity / both, gradient))
    }
}

struct Forward<'a> {
    loss: &'a Centerline,
    c: usize,
    y: &'a [f32],
    rows: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut p = Block::new(self.c);
        for (y, rows) in self.y.chunks(POINTS * self.c).zip(self.rows.chunks_mut(POINTS * self.c)) {
            p.read(y);
            self.loss.probabilities.link().forward(s, &mut p);
            p.write(rows);
        }
    }
}

/// Gradients by the bounded probabilities, one map for each class that counts.
struct Gradients<'a> {
    loss: &'a Centerline,
    classes: &'a [usize],
    maps: &'a [Vec<f32>],
    first: usize,
}

struct Backward<'a> {
    gradients: Gradients<'a>,
    c: usize,
    rows: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gradients: Gradients { loss, classes, maps, first }, c, rows } = self;
        let (mut p, mut d) = (Block::new(c), Block::new(c));
        for (index, rows) in rows.chunks_mut(POINTS * c).enumerate() {
            p.read(rows);
            let from = first + index * POINTS;
            // A softmax leaves something in the classes that do not count, too.
            d.clear();
            for (map, &class) in maps.iter().zip(classes) {
                let (p, d) = (&p.columns()[class], &mut d.columns_mut()[class]);
                for i in 0..rows.len() / c {
                    d[i] = if loss.probabilities.passes(p[i]) { map[from + i] } else { 0.0 };
                }
            }
            loss.probabilities.link().backward(s, &p, &Sums::ONE, &mut d);
            d.write(rows);
        }
    }
}
