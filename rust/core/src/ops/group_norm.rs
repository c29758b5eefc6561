//! Group normalisation (Wu & He 2018): every sample's channels in groups, each normalised over its channels and points.
//!
//! `y[p][c] = (x[p][c] - mean[g]) / sqrt(variance[g] + epsilon) * weight[c] + bias[c]`, `g` the group of `c`
//!
//! One channel per group is instance normalisation. The first pass takes each channel's moments around a value of its
//! own (the first point of the slab), so that a mean far from zero costs no accuracy; slabs, fixed by the shape, are
//! combined in float64; the second pass is elementwise: `x * scale[n][c] + shift[n][c]`, the activation included.
//! Backward: see `group_norm_backward`.

use super::activation::Activation;
use super::affine::{Pass, repeats};
use super::group_norm_backward::GroupNormTraining;
use super::lanes::{load, store};
use super::{Attributes, Compile, Io, Op, Parameter, Role, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::buffer::align_up;
use crate::parallel::SharedMut;
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Group normalisation with the activation that follows it.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    pub(super) groups: usize,
    epsilon: f32,
    /// Whether there are weight and bias.
    affine: bool,
    pub(super) activation: Activation,
}

impl GroupNorm {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let (groups, epsilon, affine) =
            (attributes.size("groups")?, attributes.number("epsilon")?, attributes.flag("affine")?);
        if epsilon < 0.0 {
            return Err(format!("attribute \"epsilon\": expected a number >= 0, got {epsilon}"));
        }
        Ok(Box::new(Self { groups, epsilon, affine, activation: Activation::Linear }))
    }
}

impl Op for GroupNorm {
    fn kind(&self) -> &'static str {
        "group_norm"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let c = channels[0];
        if !c.is_multiple_of(self.groups) {
            return Err(format!("{c} channels cannot be dealt to {} groups", self.groups));
        }
        let parameters = match self.affine {
            true => vec![Parameter::new("weight", &[c], Role::Scale), Parameter::new("bias", &[c], Role::Bias)],
            false => Vec::new(),
        };
        Ok(Signature { channels: c, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn absorb(&self, next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        let activation = self.activation.followed_by(next)?;
        Some(Box::new(Self { activation, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.step(context))
    }

    fn absorb_for_training(&self, next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        let activation = self.activation.followed_by(next)?;
        activation.backward_takes_output().then(|| Box::new(Self { activation, ..*self }) as Box<dyn Op>)
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(GroupNormTraining::new(self.step(context)))
    }
}

impl GroupNorm {
    fn step(&self, context: &Compile<'_>) -> GroupNormStep {
        let shape = context.output;
        let (weight, bias) = match *context.parameters {
            [weight, bias] => (weight.to_vec(), bias.to_vec()),
            _ => (vec![1.0; shape.c], vec![0.0; shape.c]),
        };
        GroupNormStep { op: *self, isa: context.isa, shape, slabs: Slabs::new(shape), weight, bias }
    }
}

/// How the points of a sample are cut: by the shape alone, so that threads cannot change a bit.
#[derive(Clone, Copy, Debug)]
struct Slabs {
    /// Points in a slab, but for the last.
    points: usize,
    count: usize,
}

impl Slabs {
    fn new(shape: Shape) -> Self {
        /// Elements that are worth a task.
        const LEAST: usize = 16 * 1024;
        /// More slabs than this only make the combination longer.
        const MOST: usize = 64;
        let spatial = shape.spatial().max(1);
        let points = (LEAST / shape.c).max(spatial.div_ceil(MOST)).clamp(1, spatial);
        Self { points, count: spatial.div_ceil(points) }
    }
}

pub(super) struct GroupNormStep {
    pub(super) op: GroupNorm,
    pub(super) isa: Isa,
    pub(super) shape: Shape,
    slabs: Slabs,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl GroupNormStep {
    /// Scratch memory: moments of slabs (two rows each); rows of scales and of shifts, one of each for every sample.
    pub(super) fn pieces(&self) -> [usize; 2] {
        let Shape { n, c, .. } = self.shape;
        [n * self.slabs.count * 2 * align_up(c), n * 2 * c * repeats(c)]
    }

    /// Writes mean and deviation of every group of a sample, from the moments of its slabs, and with them scale and
    /// shift of every channel.
    fn combine(&self, x: &[f32], moments: &[f32], [scale, shift]: [&mut [f32]; 2], statistics: &mut [f32]) {
        let c = self.shape.c;
        let (pitch, width, spatial) = (align_up(c), c / self.op.groups, self.shape.spatial());
        let points = |slab: usize| (spatial - slab * self.slabs.points).min(self.slabs.points) as f64;
        // Mean, and sum of squared distances from it, of one channel of one slab.
        let part = |slab: usize, channel: usize| {
            let [sum, squares] = [0, 1].map(|row| f64::from(moments[(2 * slab + row) * pitch + channel]));
            let origin = f64::from(x[slab * self.slabs.points * c + channel]);
            let mean = sum / points(slab);
            (origin + mean, squares - sum * mean)
        };
        for group in 0..self.op.groups {
            let channels = group * width..(group + 1) * width;
            let parts = || {
                let channels = channels.clone();
                (0..self.slabs.count).flat_map(move |slab| channels.clone().map(move |channel| (slab, channel)))
            };
            let count = (spatial * width) as f64;
            let mean = parts().map(|(slab, channel)| points(slab) * part(slab, channel).0).sum::<f64>() / count;
            let squares = parts().map(|(slab, channel)| {
                let (centre, squares) = part(slab, channel);
                squares + points(slab) * (centre - mean).powi(2)
            });
            let deviation = (squares.sum::<f64>().max(0.0) / count + f64::from(self.op.epsilon)).sqrt();
            statistics[2 * group..2 * group + 2].copy_from_slice(&[mean as f32, deviation as f32]);
            for channel in channels.clone() {
                let factor = f64::from(self.weight[channel]) / deviation;
                scale[channel] = factor as f32;
                shift[channel] = (f64::from(self.bias[channel]) - mean * factor) as f32;
            }
        }
        for row in [scale, shift] {
            let (first, rest) = row.split_at_mut(c);
            rest.chunks_exact_mut(c).for_each(|copy| copy.copy_from_slice(first));
        }
    }
}

impl GroupNormStep {
    /// Elements of the statistics of a sample: mean and deviation of every group.
    pub(super) fn statistics(&self) -> usize {
        2 * self.op.groups
    }

    /// Computes the output and the statistics of every sample.
    pub(super) fn run(&self, io: Io<'_>, statistics: &mut [f32]) {
        let (x, pool, isa) = (io.inputs[0], io.pool, self.isa);
        let c = self.shape.c;
        let (sample, slab) = (self.shape.sample(), self.slabs.points * c);
        let [moments, rows] = self.pieces();
        let (moments, rest) = io.scratch.split_at_mut(moments);
        let rows = &mut rest[..rows];

        pool.for_each_chunk(moments, 2 * align_up(c), |task, out| {
            let (n, start) = (task / self.slabs.count, task % self.slabs.count * slab);
            let x = &x[n * sample..(n + 1) * sample][start..sample.min(start + slab)];
            let (sums, squares) = out.split_at_mut(align_up(c));
            dispatch(isa, Moments { x, sums: &mut sums[..c], squares: &mut squares[..c] });
        });
        let (moments, row) = (&*moments, c * repeats(c));
        let per_sample = self.slabs.count * 2 * align_up(c);
        let shared = SharedMut::new(rows);
        pool.for_each_chunk(statistics, self.statistics(), |n, statistics| {
            // SAFETY: every sample has rows of its own.
            let (scale, shift) = unsafe { shared.slice_mut(2 * n * row..2 * (n + 1) * row) }.split_at_mut(row);
            self.combine(&x[n * sample..], &moments[n * per_sample..], [scale, shift], statistics);
        });
        for ((x, y), rows) in x.chunks_exact(sample).zip(io.output.chunks_exact_mut(sample)).zip(rows.chunks(2 * row)) {
            let (scale, shift) = rows.split_at(row);
            Pass { isa, x, residual: None, scale, shift, activation: self.op.activation }.run(y, pool);
        }
    }
}

impl Step for GroupNormStep {
    fn scratch(&self) -> usize {
        self.pieces().iter().sum::<usize>() + align_up(self.shape.n * self.statistics())
    }

    fn forward(&self, io: Io<'_>) {
        let length = self.shape.n * self.statistics();
        let (statistics, scratch) = io.scratch.split_at_mut(align_up(length));
        self.run(Io { scratch, ..io }, &mut statistics[..length]);
    }

    fn algorithm(&self) -> String {
        "moments of slabs, one pass".into()
    }
}

/// Sums of `x - origin` and of its squares over the points of a slab, `origin` being the first point.
struct Moments<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
    squares: &'a mut [f32],
}

impl Kernel for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let c = self.sums.len();
        assert!(self.squares.len() == c && self.x.len().is_multiple_of(c) && !self.x.is_empty());
        let mut start = 0;
        // Four vectors at a time: whole lines of memory in a row.
        while start + 4 * S::LANES <= c {
            self.columns::<S, 4>(simd, start, None);
            start += 4 * S::LANES;
        }
        while start + S::LANES <= c {
            self.columns::<S, 1>(simd, start, None);
            start += S::LANES;
        }
        if start < c {
            self.columns::<S, 1>(simd, start, Some(simd.first(c - start)));
        }
    }
}

impl Moments<'_> {
    /// `N` vectors of channels from `start`, or the channels of the tail.
    #[inline(always)]
    fn columns<S: Simd, const N: usize>(&mut self, simd: S, start: usize, tail: Option<S::M>) {
        /// Points that are summed before their sum is added to the total: rounding grows with the sum of the two.
        const RUN: usize = 128;
        let c = self.sums.len();
        let zero = simd.splat(0.0);
        let mut origin = [zero; N];
        for (v, origin) in origin.iter_mut().enumerate() {
            // SAFETY: every point has `N` vectors, or the tail, from `start`.
            *origin = unsafe { load(simd, self.x.as_ptr().add(start + v * S::LANES), tail) };
        }
        let mut totals = [[zero; N]; 2];
        for run in self.x.chunks(RUN * c) {
            let mut sums = [[zero; N]; 2];
            for point in run.chunks_exact(c) {
                for v in 0..N {
                    // SAFETY: as above.
                    let x = unsafe { load(simd, point.as_ptr().add(start + v * S::LANES), tail) };
                    let x = simd.sub(x, origin[v]);
                    sums[0][v] = simd.add(sums[0][v], x);
                    sums[1][v] = simd.fma(x, x, sums[1][v]);
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                for v in 0..N {
                    total[v] = simd.add(total[v], sum[v]);
                }
            }
        }
        for v in 0..N {
            let at = start + v * S::LANES;
            // SAFETY: both outputs have as many channels as a point.
            unsafe {
                store(simd, self.sums.as_mut_ptr().add(at), totals[0][v], tail);
                store(simd, self.squares.as_mut_ptr().add(at), totals[1][v], tail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{Trial, op, text};
    use super::super::{Op, Value};
    use super::*;

    fn group_norm(groups: usize, affine: bool) -> Box<dyn Op> {
        let groups = ("groups", Value::Int(groups as i64));
        op("group_norm", &[groups, ("epsilon", Value::Float(1e-3)), ("affine", Value::Bool(affine))])
    }

    fn naive(x: &[f64], shape: Shape, groups: usize, parameters: Option<[Vec<f64>; 2]>) -> Vec<f64> {
        let (c, width) = (shape.c, shape.c / groups);
        let mut y = x.to_vec();
        for sample in y.chunks_mut(shape.sample()) {
            for group in 0..groups {
                let member = |i: &usize| i % c / width == group;
                let of_group: Vec<f64> = (0..sample.len()).filter(member).map(|i| sample[i]).collect();
                let mean = of_group.iter().sum::<f64>() / of_group.len() as f64;
                let variance = of_group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / of_group.len() as f64;
                for i in (0..sample.len()).filter(member) {
                    let [weight, bias] = match &parameters {
                        Some([weight, bias]) => [weight[i % c], bias[i % c]],
                        None => [1.0, 0.0],
                    };
                    sample[i] = (sample[i] - mean) / (variance + 1e-3).sqrt() * weight + bias;
                }
            }
        }
        y
    }

    #[test]
    fn groups_layers_and_instances() {
        for (c, groups) in [(1, 1), (6, 3), (16, 16), (17, 1), (32, 4), (70, 35), (64, 32)] {
            for dims in [[1, 3, 5], [2, 9, 11], [1, 61, 67]] {
                let shape = Shape::new(2, dims, c);
                let mut trial = Trial::new(group_norm(groups, true), &[shape]);
                // A mean of its own for every channel.
                trial.inputs[0].iter_mut().enumerate().for_each(|(i, x)| *x += (i % c % 5) as f32);
                let parameters = [0, 1].map(|i| trial.parameter(i));
                let want = naive(&trial.input(0), shape, groups, Some(parameters));
                trial.check(&want);
                let relu = op("activation", &[("function", text("relu"))]);
                let want: Vec<f64> = want.iter().map(|y| y.max(0.0)).collect();
                trial.absorb(&*relu, &[]).check(&want);
                let trial = Trial::new(group_norm(groups, false), &[shape]);
                trial.check(&naive(&trial.input(0), shape, groups, None));
            }
        }
    }

    #[test]
    fn gradients() {
        for (c, groups) in [(1, 1), (6, 3), (16, 16), (17, 1), (70, 35)] {
            for dims in [[1, 5, 7], [3, 4, 5]] {
                for affine in [false, true] {
                    let trial = || Trial::new(group_norm(groups, affine), &[Shape::new(2, dims, c)]);
                    trial().check_gradients(1e-2, 2e-3);
                    let tanh = op("activation", &[("function", text("tanh"))]);
                    trial().absorb_for_training(&*tanh, &[]).check_gradients(1e-2, 2e-3);
                }
            }
        }
        // Several slabs.
        Trial::new(group_norm(2, true), &[Shape::new(2, [1, 61, 67], 18)]).check_gradients(1e-2, 2e-3);
    }

    #[test]
    fn groups_must_divide_the_channels() {
        assert!(group_norm(4, true).signature(&[6]).unwrap_err().contains("4 groups"));
    }
}
