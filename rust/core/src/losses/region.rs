//! Losses of regions: functions of three sums over the points of a sample, for each class.
//!
//! With `m` 1 where a point counts, `q` the probability bounded to `smooth ..= 1 - smooth`, `t` the target, `s` = smooth:
//! `I = sum of m t q`, `P = sum of m q`, `T = sum of m t`.
//!
//! | loss | value | dv / dI | dv / dP |
//! |---|---|---|---|
//! | Dice | `1 - (2 I + s) / U`, `U = P + T + s` | `-2 / U` | `(2 I + s) / U²` |
//! | IoU | `1 - (I + s) / U`, `U = P + T - I + s` | `-1 / U - (I + s) / U²` | `(I + s) / U²` |
//! | Tversky | `1 - (I + s) / U`, `U = I + a (P - I) + b (T - I) + s` | `-1 / U + (1 - a - b) (I + s) / U²` | `a (I + s) / U²` |
//! | generalised Dice | `1 - N / U` over classes, `N = sum of 2 w I`, `U = sum of w (P + T) + s` | `-2 w / U` | `w N / U²` |
//!
//! The weights `w` of generalised Dice are `1 / (T² + s)`, `1 / (T + s)` or 1, and 0 for a class that is absent. Then
//! `dv / dq = m (t dv/dI + dv/dP)`, 0 beyond the bounds, and from `q` on as [`Link::backward`] says. Two passes: the first
//! leaves the probabilities where the gradient will be.

use super::block::{Block, Link, POINTS, Sums};
use super::weights::Weights;
use super::{Form, Problem};
use crate::parallel::Pool;
use crate::pieces;
use crate::simd::{Kernel, Simd, dispatch};

/// Points of a task: whole blocks.
const SLAB: usize = 2048;

/// How overlap is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Overlap {
    Dice,
    IoU,
    Tversky { alpha: f64, beta: f64 },
    Generalized(ClassWeight),
}

/// What generalised Dice weighs classes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ClassWeight {
    Square,
    Simple,
    Uniform,
}

#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) overlap: Overlap,
    pub(super) probabilities: Probabilities,
}

/// From outputs to the probabilities of the classes that count.
#[derive(Clone, Debug)]
pub(super) struct Probabilities {
    pub(super) form: Form,
    pub(super) from_logits: bool,
    pub(super) smooth: f32,
    /// All if there are none.
    pub(super) classes: Option<Vec<usize>>,
}

/// `I`, `P`, `T` of a class; or the derivatives by the first two.
type Triple = [f64; 3];

impl Probabilities {
    pub(super) fn link(&self) -> Link {
        match (self.from_logits, self.form) {
            (false, _) => Link::Identity,
            (true, Form::Binary) => Link::Sigmoid,
            (true, _) => Link::Softmax,
        }
    }

    pub(super) fn classes(&self, c: usize) -> Vec<usize> {
        self.classes.clone().unwrap_or_else(|| (0..c).collect())
    }

    /// The probability, bounded.
    #[inline(always)]
    pub(super) fn bounded(&self, p: f32) -> f32 {
        p.clamp(self.smooth, 1.0 - self.smooth)
    }

    /// Whether the gradient passes the bounds.
    #[inline(always)]
    pub(super) fn passes(&self, p: f32) -> bool {
        p >= self.smooth && p <= 1.0 - self.smooth
    }
}

impl Region {
    pub(super) fn classes(&self, c: usize) -> Vec<usize> {
        self.probabilities.classes(c)
    }

    /// Whether there is one value for each sample instead of one for each of its classes.
    pub(super) fn one_value(&self) -> bool {
        matches!(self.overlap, Overlap::Generalized(_))
    }

    /// The values; `d_y` becomes `scale` times the gradient of their weighted sum.
    pub(super) fn evaluate(
        &self,
        problem: Problem<'_>,
        pool: &Pool,
        weights: &Weights<'_>,
        scale: f64,
        d_y: &mut [f32],
    ) -> Vec<f64> {
        let classes = self.classes(problem.shape.c);
        let pass = Pass { region: self, problem, classes: &classes };
        let sums = pass.sums(pool, d_y);
        let scores: Vec<_> = sums.iter().map(|sums| self.score(problem.class_weights, &classes, sums)).collect();
        let values: Vec<f64> = scores.iter().flat_map(|(values, _)| values.clone()).collect();
        let per_sample = values.len() / scores.len();
        let slopes: Vec<Vec<Triple>> = scores
            .into_iter()
            .enumerate()
            .map(|(n, (_, mut slopes))| {
                for (class, slopes) in slopes.iter_mut().enumerate() {
                    let value = n * per_sample + class.min(per_sample - 1);
                    slopes.iter_mut().for_each(|slope| *slope *= scale * weights.at(value));
                }
                slopes
            })
            .collect();
        pass.gradient(pool, &slopes, d_y);
        values
    }

    /// The values of one sample and their derivatives by the sums of each class.
    fn score(&self, class_weights: Option<&[f32]>, classes: &[usize], sums: &[Triple]) -> (Vec<f64>, Vec<Triple>) {
        let weight = |class: usize| class_weights.map_or(1.0, |weights| f64::from(weights[classes[class]]));
        let s = f64::from(self.probabilities.smooth);
        if let Overlap::Generalized(kind) = self.overlap {
            return generalized(kind, sums, s, weight);
        }
        let score = |(class, &[i, p, t]): (usize, &Triple)| {
            let (value, d_i, d_p) = match self.overlap {
                Overlap::Dice => {
                    let (n, u) = (2.0 * i + s, p + t + s);
                    (1.0 - n / u, -2.0 / u, n / (u * u))
                }
                Overlap::IoU => {
                    let (n, u) = (i + s, p + t - i + s);
                    (1.0 - n / u, -1.0 / u - n / (u * u), n / (u * u))
                }
                Overlap::Tversky { alpha, beta } => {
                    let (n, u) = (i + s, i + alpha * (p - i) + beta * (t - i) + s);
                    (1.0 - n / u, -1.0 / u + (1.0 - alpha - beta) * n / (u * u), alpha * n / (u * u))
                }
                Overlap::Generalized(_) => unreachable!("it has one value for all classes"),
            };
            let weight = weight(class);
            (weight * value, [weight * d_i, weight * d_p, 0.0])
        };
        sums.iter().enumerate().map(score).unzip()
    }
}

fn generalized(kind: ClassWeight, sums: &[Triple], s: f64, weight: impl Fn(usize) -> f64) -> (Vec<f64>, Vec<Triple>) {
    // Nothing there and nothing found: a perfect score.
    if sums.iter().all(|[_, p, t]| p + t < s) {
        return (vec![0.0], vec![[0.0; 3]; sums.len()]);
    }
    let of_class = |(class, &[_, _, t]): (usize, &Triple)| {
        let by_size = match kind {
            ClassWeight::Square => 1.0 / (t * t + s),
            ClassWeight::Simple => 1.0 / (t + s),
            ClassWeight::Uniform => 1.0,
        };
        if t < s { 0.0 } else { weight(class) * by_size }
    };
    let weights: Vec<f64> = sums.iter().enumerate().map(of_class).collect();
    let n: f64 = weights.iter().zip(sums).map(|(w, [i, ..])| 2.0 * w * i).sum();
    let u = weights.iter().zip(sums).map(|(w, [_, p, t])| w * (p + t)).sum::<f64>() + s;
    let slopes = weights.iter().map(|w| [-2.0 * w / u, w * n / (u * u), 0.0]).collect();
    (vec![1.0 - n / u], slopes)
}

/// Both passes over all points.
#[derive(Clone, Copy)]
struct Pass<'a> {
    region: &'a Region,
    problem: Problem<'a>,
    classes: &'a [usize],
}

/// Points of one sample, where their probabilities or gradients are.
struct Slab<'a> {
    first: usize,
    n: usize,
    rows: &'a mut [f32],
}

impl Pass<'_> {
    /// Slabs never cross samples.
    fn slabs<'a>(&self, rows: &'a mut [f32]) -> Vec<Slab<'a>> {
        let (c, spatial) = (self.problem.shape.c, self.problem.shape.spatial());
        let samples = rows.chunks_mut(spatial * c).enumerate();
        let slabs = samples.flat_map(|(n, rows)| {
            let slabs = rows.chunks_mut(SLAB * c).enumerate();
            slabs.map(move |(slab, rows)| Slab { first: n * spatial + slab * SLAB, n, rows })
        });
        slabs.collect()
    }

    /// Writes the probabilities, and sums them for each sample and class.
    fn sums(&self, pool: &Pool, rows: &mut [f32]) -> Vec<Vec<Triple>> {
        let slabs = self.slabs(rows);
        let samples: Vec<usize> = slabs.iter().map(|slab| slab.n).collect();
        let mut parts = vec![vec![[0.0; 3]; self.classes.len()]; slabs.len()];
        let tasks = slabs.into_iter().zip(&mut parts).collect();
        pieces::for_each(pool, tasks, |_, (slab, sums)| {
            dispatch(self.problem.isa, Forward { pass: *self, slab, sums });
        });
        let mut sums = vec![vec![[0.0; 3]; self.classes.len()]; self.problem.shape.n];
        for (n, part) in samples.into_iter().zip(parts) {
            for (sum, part) in sums[n].iter_mut().flatten().zip(part.into_iter().flatten()) {
                *sum += part;
            }
        }
        sums
    }

    /// Turns the probabilities into the gradient.
    fn gradient(&self, pool: &Pool, slopes: &[Vec<Triple>], rows: &mut [f32]) {
        pieces::for_each(pool, self.slabs(rows), |_, slab| {
            let slopes = &slopes[slab.n];
            dispatch(self.problem.isa, Backward { pass: *self, slab, slopes });
        });
    }
}

struct Forward<'a> {
    pass: Pass<'a>,
    slab: Slab<'a>,
    sums: &'a mut [Triple],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Blocks whose sums may be added in single precision.
        const BLOCKS: usize = 16;
        let Self { pass, slab, sums } = self;
        let c = pass.problem.shape.c;
        let (mut p, mut t) = (Block::new(c), Block::new(c));
        let probabilities = &pass.region.probabilities;
        let mut lanes = vec![[[0.0f32; POINTS]; 3]; sums.len()];
        let blocks = slab.rows.len().div_ceil(POINTS * c);
        for (index, rows) in slab.rows.chunks_mut(POINTS * c).enumerate() {
            let (first, count) = (slab.first + index * POINTS, rows.len() / c);
            p.read(&pass.problem.y[first * c..][..rows.len()]);
            probabilities.link().forward(s, &mut p);
            p.write(rows);
            let mask = pass.problem.truth.read(first, count, &mut t);
            for (lanes, &class) in lanes.iter_mut().zip(pass.classes) {
                let (p, t) = (&p.columns()[class], &t.columns()[class]);
                for i in 0..POINTS {
                    let q = if mask[i] == 0.0 { 0.0 } else { probabilities.bounded(p[i]) };
                    lanes[0][i] += t[i] * q;
                    lanes[1][i] += q;
                    lanes[2][i] += t[i];
                }
            }
            if index % BLOCKS == BLOCKS - 1 || index + 1 == blocks {
                for (sum, lanes) in sums.iter_mut().flatten().zip(lanes.iter_mut().flatten()) {
                    *sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
                    *lanes = [0.0; POINTS];
                }
            }
        }
    }
}

struct Backward<'a> {
    pass: Pass<'a>,
    slab: Slab<'a>,
    slopes: &'a [Triple],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { pass, slab, slopes } = self;
        let c = pass.problem.shape.c;
        let (mut p, mut t, mut d) = (Block::new(c), Block::new(c), Block::new(c));
        let probabilities = &pass.region.probabilities;
        for (index, rows) in slab.rows.chunks_mut(POINTS * c).enumerate() {
            let (first, count) = (slab.first + index * POINTS, rows.len() / c);
            p.read(rows);
            let mask = pass.problem.truth.read(first, count, &mut t);
            // A softmax leaves something in the classes that do not count, too.
            d.clear();
            for (&class, &[by_overlap, by_volume, _]) in pass.classes.iter().zip(slopes) {
                let (by_overlap, by_volume) = (by_overlap as f32, by_volume as f32);
                let (p, t) = (&p.columns()[class], &t.columns()[class]);
                let d = &mut d.columns_mut()[class];
                for i in 0..POINTS {
                    let counts = mask[i] != 0.0 && probabilities.passes(p[i]);
                    d[i] = if counts { t[i] * by_overlap + by_volume } else { 0.0 };
                }
            }
            probabilities.link().backward(s, &p, &Sums::ONE, &mut d);
            d.write(rows);
        }
    }
}
