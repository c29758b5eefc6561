//! Windows that mostly see padding, or the gaps of a transposed convolution: output by output, without a copy.
//!
//! The other algorithms multiply with whole windows, zeros included, and copy the input with its padding. Where a large
//! dilation, stride or padding makes that many times the work that there is, this one visits nothing but the taps that
//! see the input: `y[o] += x[position] weight[tap]`, a vector of output channels at a time. Time and memory follow the
//! multiplications that count and the size of the output, whatever the numbers of the window are.

use super::blocking::Work;
use super::weights::Weights;
use crate::ops::activation::Activation;
use crate::ops::{Compile, Io, Packed, Step};
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::window::Window;

/// A multiplication here takes as long as this many in a register tile.
const SLOW: f64 = 32.0;
/// A padded copy may have this many times the points of input and output.
const COPIES: u128 = 16;
/// A padded copy of fewer points is small.
const SMALL: u128 = 1 << 16;
/// No padded copy of a batch is larger; lengths of scratch memory can then be computed without overflow.
const ADDRESSABLE: u128 = 1 << 48;

/// Whether `work` is for this algorithm: because hardly a tap sees the input, or because the padded input is too large.
///
/// Depends on one sample and not on threads: so do the bits of the result.
pub(super) fn pays(work: &Work) -> bool {
    let Work { window, input, output, .. } = *work;
    let (dims, out) = (input.dims(), output.dims());
    let wide = |numbers: [usize; 3]| numbers.iter().map(|&number| number as u128).product::<u128>();
    let padded = wide(std::array::from_fn(|axis| (out[axis] - 1) * window.stride[axis] + window.extent(axis)));
    if padded > SMALL.max(COPIES * (wide(dims) + wide(out)))
        || padded.saturating_mul(input.c as u128 * input.n as u128) > ADDRESSABLE
    {
        return true;
    }
    let share = (0..3).map(|axis| {
        let all = out[axis] as f64 * window.kernel[axis] as f64;
        useful(&window, axis, dims[axis], out[axis]) as f64 / all
    });
    share.product::<f64>() * SLOW < 1.0
}

/// Pairs of outputs and taps that see the input along an axis.
fn useful(window: &Window, axis: usize, input: usize, output: usize) -> usize {
    if window.kernel[axis] < output {
        (0..window.kernel[axis]).map(|tap| window.valid_outputs(axis, tap, input, output).len()).sum()
    } else {
        (0..output).map(|out| window.valid_taps(axis, out, input).len()).sum()
    }
}

/// The taps that one output sees along one axis, and the input positions that they see.
#[derive(Clone, Copy, Debug)]
struct Reach {
    count: usize,
    tap: usize,
    tap_step: usize,
    position: isize,
    position_step: isize,
}

/// Which way the window works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// A convolution.
    Forward,
    /// A transposed convolution; its dilation is 1.
    Transposed,
}

impl Direction {
    fn reach(self, window: &Window, axis: usize, out: usize, input: usize) -> Reach {
        match self {
            Self::Forward => {
                let taps = window.valid_taps(axis, out, input);
                let step = window.dilation[axis] as isize;
                let position = window.origin(axis, out) + taps.start as isize * step;
                Reach { count: taps.len(), tap: taps.start, tap_step: 1, position, position_step: step }
            }
            Self::Transposed => {
                // Tap `first` sees position `last`, the tap `stride` further the position before it, and so on.
                let (stride, place) = (window.stride[axis], out + window.padding[axis][0]);
                let (first, last) = (place % stride, place / stride);
                let skipped = (last + 1).saturating_sub(input);
                let count = window.kernel[axis].saturating_sub(first).div_ceil(stride).min(last + 1);
                Reach {
                    count: count.saturating_sub(skipped),
                    tap: first + skipped * stride,
                    tap_step: stride,
                    position: last as isize - skipped as isize,
                    position_step: -1,
                }
            }
        }
    }
}

impl Reach {
    /// Tap and position.
    fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count).map(move |i| {
            (self.tap + i * self.tap_step, self.position.wrapping_add(i as isize * self.position_step) as usize)
        })
    }
}

/// The compiled convolution.
pub(super) struct Sparse {
    isa: Isa,
    direction: Direction,
    window: Window,
    input: Shape,
    output: Shape,
    groups: usize,
    /// `[tap][group][c][k]`
    weights: Packed,
    bias: Packed,
    residual: bool,
    activation: Activation,
}

impl Sparse {
    pub(super) fn new(
        context: &mut Compile<'_>,
        (direction, window, groups): (Direction, Window, usize),
        (input, output): (Shape, Shape),
        (weights, bias): (&Weights<'_>, &[f32]),
        (residual, activation): (bool, Activation),
    ) -> Self {
        let Compile { isa, pool, .. } = *context;
        let packed = context.packed("sparse", weights.len(), |packed| pack(isa, weights, packed, pool));
        let bias = context.copied("shift", bias);
        Self { isa, direction, window, input, output, groups, weights: packed, bias, residual, activation }
    }

    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        pack(self.isa, weights, self.weights.refill(), pool);
        self.bias.refill().copy_from_slice(bias);
    }

    fn reach(&self, at: [usize; 3]) -> [Reach; 3] {
        let dims = self.input.dims();
        std::array::from_fn(|axis| self.direction.reach(&self.window, axis, at[axis], dims[axis]))
    }
}

/// Writes `[tap][group][c][k]`.
fn pack(isa: Isa, weights: &Weights<'_>, packed: &mut [f32], pool: &Pool) {
    let Weights { groups, channels, taps, .. } = *weights;
    let filters = packed.len() / (groups * channels * taps);
    let position = |k: usize, c: usize, tap: usize| {
        let (group, column) = (k / filters, k % filters);
        ((tap * groups + group) * channels + c) * filters + column
    };
    // Pieces of several lines: the rows of a piece are far apart.
    weights.place([filters, 4 * isa.lanes()], isa, packed, position, pool);
}

impl Step for Sparse {
    fn forward(&self, io: Io<'_>) {
        /// Pixels of a task, at most.
        const PIXELS: usize = 64;
        let (x, residual) = (io.inputs[0], self.residual.then(|| io.inputs[1]));
        let pixels = (io.output.len() / self.output.c / (4 * io.pool.threads())).clamp(1, PIXELS);
        io.pool.for_each_chunk(io.output, pixels * self.output.c, |task, y| {
            let residual = residual.map(|residual| &residual[task * pixels * self.output.c..][..y.len()]);
            dispatch(self.isa, Pixels { sparse: self, first: task * pixels, x, y, residual });
        });
    }

    fn algorithm(&self) -> String {
        "sparse".into()
    }

    fn flops(&self) -> u64 {
        let pairs = |axis: usize| {
            let (input, out) = (self.input.dims()[axis], self.output.dims()[axis]);
            (0..out).map(|out| self.direction.reach(&self.window, axis, out, input).count as u64).sum::<u64>()
        };
        let each = (self.input.n * self.output.c * (self.input.c / self.groups)) as u64;
        (0..3).map(pairs).fold(2 * each, u64::saturating_mul)
    }
}

/// The outputs of a task.
struct Pixels<'a> {
    sparse: &'a Sparse,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
    residual: Option<&'a [f32]>,
}

impl Kernel for Pixels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Sparse { window, input, output, groups, .. } = *self.sparse;
        let [_, height, width] = window.kernel;
        let (channels, filters) = (input.c / groups, output.c / groups);
        let (weights, bias): (&[f32], &[f32]) = (&self.sparse.weights, &self.sparse.bias);
        for (pixel, y) in self.y.chunks_exact_mut(output.c).enumerate() {
            let pixel = self.first + pixel;
            let (row, ow) = (pixel / output.w, pixel % output.w);
            let (plane, oh) = (row / output.h, row % output.h);
            let [depths, rows, columns] = self.sparse.reach([plane % output.d, oh, ow]);
            y.copy_from_slice(bias);
            for (kd, d) in depths.pairs() {
                for (kh, h) in rows.pairs() {
                    for (kw, w) in columns.pairs() {
                        let start = (((plane / output.d * input.d + d) * input.h + h) * input.w + w) * input.c;
                        let x = &self.x[start..start + input.c];
                        let tap = ((kd * height + kh) * width + kw) * input.c * filters;
                        let weights = &weights[tap..tap + input.c * filters];
                        let grouped = x.chunks_exact(channels).zip(weights.chunks_exact(channels * filters));
                        for ((x, weights), y) in grouped.zip(y.chunks_exact_mut(filters)) {
                            for (&x, weights) in x.iter().zip(weights.chunks_exact(filters)) {
                                for (y, &weight) in y.iter_mut().zip(weights) {
                                    *y += x * weight;
                                }
                            }
                        }
                    }
                }
            }
            if let Some(residual) = self.residual {
                let at = (pixel - self.first) * output.c;
                for (y, residual) in y.iter_mut().zip(&residual[at..at + output.c]) {
                    *y += residual;
                }
            }
            self.sparse.activation.apply_slice(simd, y);
        }
    }
}
