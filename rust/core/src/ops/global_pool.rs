//! Global pooling: the mean or the maximum over all points, one vector of channels for each sample.
//!
//! Backward, with `P` points: of the mean `d_x[n][p][c] = d_y[n][c] / P`; of the maximum `d_x[n][p][c] = d_y[n][c]` at the
//! first point that has it (NaN, if that is the maximum), 0 elsewhere. Forward saves the number of that point, which
//! a second pass finds slab by slab; no activation is kept.

use super::affine::repeats;
use super::fold::{Max, Slabs, Sum};
use super::lanes::copy_plus;
use super::{
    Attributes, Backward, Compile, Forward, Gradient, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs,
};
use crate::buffer::align_up;
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// The mean or the maximum over all points.
#[derive(Clone, Copy, Debug)]
pub enum GlobalPool {
    /// The mean.
    Avg,
    /// The maximum; NaN where there is one.
    Max,
}

impl GlobalPool {
    pub(super) fn parse_avg(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self::Avg))
    }

    pub(super) fn parse_max(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self::Max))
    }
}

impl Op for GlobalPool {
    fn kind(&self) -> &'static str {
        match self {
            Self::Avg => "global_avg_pool",
            Self::Max => "global_max_pool",
        }
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Slabs::infer(inputs[0])?;
        // Points are numbered from 1 in 32 bits.
        if inputs[0].spatial() >= u32::MAX as usize {
            return Err(format!("too many points: {}", inputs[0]));
        }
        Ok(Shape::vector(inputs[0].n, inputs[0].c))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(GlobalPoolStep::new(*self, context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(GlobalPoolStep::new(*self, context))
    }
}

struct GlobalPoolStep {
    pool: GlobalPool,
    isa: Isa,
    shape: Shape,
    slabs: Slabs,
}

impl GlobalPoolStep {
    fn new(pool: GlobalPool, context: &Compile<'_>) -> Self {
        let (isa, shape) = (context.isa, context.inputs[0]);
        Self { pool, isa, shape, slabs: Slabs::new(isa, shape) }
    }

    /// Finds the points of the maxima `y`.
    fn find(&self, x: &[f32], y: &[f32], points: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        let Self { isa, shape, ref slabs, .. } = *self;
        let (slabs, c, pitch) = (slabs.slabs(), shape.c, align_up(shape.c));
        let scratch = &mut scratch[..shape.n * slabs * pitch];
        pool.for_each_chunk(scratch, pitch, |slab, found| {
            let n = slab / slabs;
            let range = self.slabs.range(slab);
            let before = (range.start - n * shape.sample()) / c;
            dispatch(isa, Find { x: &x[range], y: &y[n * c..][..c], before, found: &mut found[..c] });
        });
        pool.for_each_chunk(points, c, |n, points| {
            for (channel, point) in points.iter_mut().enumerate() {
                let mut found = (0..slabs).map(|slab| scratch[(n * slabs + slab) * pitch + channel]);
                *point = found.find(|point| point.to_bits() != 0).unwrap_or_default();
            }
        });
    }

    /// Writes the gradient of the input of a mean.
    fn spread(&self, d_y: &[f32], d_x: Gradient<'_>, pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, shape, .. } = *self;
        let row = shape.c * repeats(shape.c);
        let chunk = (CHUNK / row).max(1) * row;
        let chunks = shape.sample().div_ceil(chunk);
        let factor = 1.0 / shape.spatial() as f32;
        let Gradient { values, plus } = d_x;
        let d_x = SharedMut::new(values);
        pool.for_each(shape.n * chunks, |task| {
            let (n, start) = (task / chunks, task % chunks * chunk);
            let mean: Vec<f32> = d_y[n * shape.c..][..shape.c].iter().map(|d_y| d_y * factor).collect();
            let row = mean.repeat(row / shape.c);
            let range = n * shape.sample() + start..n * shape.sample() + shape.sample().min(start + chunk);
            let plus = plus.map(|plus| &plus[range.clone()]);
            // SAFETY: the ranges of different tasks do not overlap.
            dispatch(isa, Spread { row: &row, plus, d_x: unsafe { d_x.slice_mut(range) } });
        });
    }
}

impl Step for GlobalPoolStep {
    fn scratch(&self) -> usize {
        self.slabs.scratch()
    }

    fn forward(&self, io: Io<'_>) {
        let x = io.inputs[0];
        match self.pool {
            GlobalPool::Avg => {
                self.slabs.fold::<Sum>(x, io.output, io.scratch, io.pool, 1.0 / self.shape.spatial() as f32);
            }
            GlobalPool::Max => self.slabs.fold::<Max>(x, io.output, io.scratch, io.pool, 1.0),
        }
    }

    fn algorithm(&self) -> String {
        "slabs".into()
    }

    fn flops(&self) -> u64 {
        self.shape.len() as u64
    }
}

impl TrainStep for GlobalPoolStep {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn saved(&self) -> usize {
        match self.pool {
            GlobalPool::Avg => 0,
            GlobalPool::Max => self.shape.n * self.shape.c,
        }
    }

    fn scratch(&self) -> [usize; 2] {
        [self.slabs.scratch(), 0]
    }

    fn forward(&self, io: Forward<'_>) {
        let Forward { inputs, output, saved, scratch, pool, .. } = io;
        Step::forward(self, Io { inputs, output, in_place: false, scratch, pool });
        if let GlobalPool::Max = self.pool {
            let points = &mut saved[..TrainStep::saved(self)];
            self.find(inputs[0], output, points, scratch, pool);
        }
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { d_output, saved, d_inputs, pool, .. } = io;
        let Some(mut d_x) = d_inputs[0].take() else { return };
        match self.pool {
            GlobalPool::Avg => self.spread(d_output, d_x, pool),
            GlobalPool::Max => {
                d_x.nothing(pool);
                let c = self.shape.c;
                pool.for_each_chunk(d_x.values, self.shape.sample(), |n, d_x| {
                    let maxima = saved[n * c..].iter().zip(&d_output[n * c..]).take(c);
                    for (channel, (point, d_y)) in maxima.enumerate() {
                        d_x[(point.to_bits() as usize - 1) * c + channel] += d_y;
                    }
                });
            }
        }
    }
}

/// Numbers, from `before + 1` on, of the first rows of `x` where each channel is what it is in `y`, as bits; 0 where none is.
struct Find<'a> {
    x: &'a [f32],
    y: &'a [f32],
    before: usize,
    found: &'a mut [f32],
}

impl Kernel for Find<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { x, y, before, found } = self;
        found.fill(0.0);
        for (point, x) in x.chunks_exact(y.len()).enumerate() {
            let number = f32::from_bits((before + point + 1) as u32);
            for ((found, &x), &y) in found.iter_mut().zip(x).zip(y) {
                let is_first = (found.to_bits() == 0) & ((x == y) | x.is_nan());
                *found = if is_first { number } else { *found };
            }
        }
    }
}

/// The row, again and again.
struct Spread<'a> {
    row: &'a [f32],
    plus: Option<&'a [f32]>,
    d_x: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { row, plus, d_x } = self;
        for (number, d_x) in d_x.chunks_mut(row.len()).enumerate() {
            let plus = plus.map(|plus| &plus[number * row.len()..][..d_x.len()]);
            copy_plus(simd, &row[..d_x.len()], plus, d_x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, op};
    use super::*;

    fn naive(trial: &Trial, fold: impl Fn(f64, f64) -> f64, start: f64) -> Vec<f64> {
        let shape = trial.shapes[0];
        let mut y = vec![start; shape.n * shape.c];
        for (i, x) in trial.input(0).into_iter().enumerate() {
            let y = &mut y[i / shape.sample() * shape.c + i % shape.c];
            *y = fold(*y, x);
        }
        y
    }

    #[test]
    fn means_and_maxima() {
        for c in CHANNELS {
            for dims in [[1, 1, 1], [1, 7, 7], [3, 40, 41]] {
                let shape = Shape::new(3, dims, c);
                let trial = Trial::new(op("global_avg_pool", &[]), &[shape]);
                let sum = naive(&trial, |a, b| a + b, 0.0);
                trial.check(&sum.iter().map(|sum| sum / shape.spatial() as f64).collect::<Vec<_>>());
                let trial = Trial::new(op("global_max_pool", &[]), &[shape]);
                trial.check(&naive(&trial, f64::max, f64::NEG_INFINITY));
            }
        }
    }

    #[test]
    fn gradients() {
        for c in [1, 5, 16, 70] {
            for dims in [[1, 1, 1], [1, 13, 9], [3, 20, 21]] {
                let shape = Shape::new(3, dims, c);
                Trial::new(op("global_avg_pool", &[]), &[shape]).check_gradients(1e-1, 1e-3);
                Trial::new(op("global_max_pool", &[]), &[shape]).apart().check_gradients(2e-3, 1e-2);
            }
        }
    }

    #[test]
    fn the_first_of_equal_maxima_and_nan_take_the_gradient() {
        let shape = Shape::new(2, [1, 40, 41], 21);
        // As many as there are from a point on; before them numbers that only minus infinity is less than.
        for special in [0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN] {
            for first in [0, 7, 1639] {
                let mut trial = Trial::new(op("global_max_pool", &[]), &[shape]);
                trial.inputs[0].fill(-f32::MAX);
                for sample in trial.inputs[0].chunks_mut(shape.sample()) {
                    sample[first * shape.c..].fill(special);
                }
                let d_y: Vec<f32> = (1..=2 * shape.c).map(|i| i as f32).collect();
                let place = if special == f32::NEG_INFINITY { 0 } else { first };
                for isa in Isa::available() {
                    let (_, gradients) = trial.train(isa, 2, &d_y, false);
                    for (i, d_x) in gradients[0].iter().enumerate() {
                        let (n, point, channel) = (i / shape.sample(), i % shape.sample() / shape.c, i % shape.c);
                        let want = if point == place { d_y[n * shape.c + channel] } else { 0.0 };
                        assert_eq!(*d_x, want, "{special} from point {first}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_map_with_an_offset_stays_exact() {
        let shape = Shape::new(1, [1, 700, 701], 5);
        let mut trial = Trial::new(op("global_avg_pool", &[]), &[shape]);
        trial.inputs[0].iter_mut().for_each(|x| *x += 10.0);
        let sum = naive(&trial, |a, b| a + b, 0.0);
        trial.check(&sum.iter().map(|sum| sum / shape.spatial() as f64).collect::<Vec<_>>());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(op("global_avg_pool", &[]).infer(&[Shape::new(1 << 58, [1, 1, 1], 1)]).is_err());
    }

    #[test]
    fn nan_is_seen() {
        let mut trial = Trial::new(op("global_max_pool", &[]), &[Shape::new(1, [1, 30, 30], 64)]);
        trial.inputs[0][64 * 450 + 3] = f32::NAN;
        for isa in crate::simd::Isa::available() {
            let y = trial.run(isa, 2);
            assert!(y.iter().enumerate().all(|(c, y)| y.is_nan() == (c == 3)));
        }
    }
}
