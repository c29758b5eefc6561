//! A convolution of stride 2 as one of stride 1 over a quarter (in 3D an eighth) of the points with as many times the channels.
//!
//! Along each axis of stride 2, padded position `2 o + t` with tap `t = 2 u + r` is position `o + u` of phase `r`. Let the
//! phases be channels: `y[o] = Σ_u Σ_r x[2 (o + u) + r] w[2 u + r]` is a convolution of stride 1 with half as many taps u,
//! the last of them partly zero. A stem of 7 x 7 x 7 taps becomes one of 4 x 4 x 4, which Winograd's algorithm can take.

use super::blocking::{Grid, Work};
use super::weights::Weights;
use super::winograd::Winograd;
use crate::buffer::align_up;
use crate::ops::{Io, Step};
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::window::Window;

/// How the input of a convolution is dealt to phases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    work: Work,
}

impl Split {
    /// For a convolution whose axes have stride 2, or one tap.
    pub(super) fn new(work: &Work) -> Option<Self> {
        let Window { kernel, stride, dilation, padding } = work.window;
        let whole = |axis: usize| kernel[axis] == 1 && stride[axis] == 1 && padding[axis] == [0; 2];
        let fits = (0..3).all(|axis| stride[axis] == 2 || whole(axis));
        (fits && stride != [1; 3] && dilation == [1; 3] && work.groups == 1).then_some(Self { work: *work })
    }

    /// Phases of each axis.
    fn phases(&self) -> [usize; 3] {
        self.work.window.stride
    }

    /// The convolution of stride 1. Its input holds the padding too.
    pub(super) fn work(&self) -> Work {
        let Work { window, input, output, .. } = self.work;
        let kernel: [usize; 3] = std::array::from_fn(|axis| window.kernel[axis].div_ceil(window.stride[axis]));
        let dims = std::array::from_fn(|axis| output.dims()[axis] + kernel[axis] - 1);
        let channels = input.c * self.phases().iter().product::<usize>();
        let window = Window { kernel, stride: [1; 3], dilation: [1; 3], padding: [[0; 2]; 3] };
        let (input, grid) = (input.with_dims(dims).with_channels(channels), Grid::dense(output));
        Work { window, input, grid, ..self.work }
    }

    /// Taps of this convolution.
    pub(super) fn taps(&self) -> usize {
        self.work.window.taps()
    }

    /// Elements of the copy of one sample.
    pub(super) fn elements(&self) -> usize {
        self.work().input.sample()
    }

    /// For channel `c` and `tap` of the convolution of stride 1: the channel and the tap of this one, if there is such a tap.
    pub(super) fn weight(&self, c: usize, tap: usize) -> (usize, Option<usize>) {
        let ([_, height, width], stride) = (self.phases(), self.work.window.stride);
        let from = self.work.window.kernel;
        let to: [usize; 3] = std::array::from_fn(|axis| from[axis].div_ceil(stride[axis]));
        let (phase, c) = (c / self.work.input.c, c % self.work.input.c);
        let phase = [phase / (height * width), phase / width % height, phase % width];
        let tap = [tap / (to[1] * to[2]), tap / to[2] % to[1], tap % to[2]];
        let at: [usize; 3] = std::array::from_fn(|axis| tap[axis] * stride[axis] + phase[axis]);
        let inside = (0..3).all(|axis| at[axis] < from[axis]);
        (c, inside.then_some((at[0] * from[1] + at[1]) * from[2] + at[2]))
    }
}

/// The compiled convolution: a copy of the input in phases, then that of stride 1.
pub(super) struct Strided {
    isa: Isa,
    split: Split,
    convolution: Winograd,
}

impl Strided {
    pub(super) fn new(isa: Isa, split: Split, convolution: Winograd) -> Self {
        Self { isa, split, convolution }
    }

    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        self.convolution.repack(&weights.split(&self.split), bias, pool);
    }

    /// Elements of the copy.
    fn copy(&self) -> usize {
        align_up(self.split.work().input.len())
    }
}

impl Step for Strided {
    fn scratch(&self) -> usize {
        self.copy() + self.convolution.scratch()
    }

    fn forward(&self, io: Io<'_>) {
        let Io { inputs, output, in_place, scratch, pool } = io;
        let (copy, scratch) = scratch.split_at_mut(self.copy());
        let (Work { window, input, .. }, to) = (self.split.work, self.split.work().input);
        let plane = to.h * to.w * to.c;
        let copy = &mut copy[..to.len()];
        let shared = SharedMut::new(copy);
        pool.for_each(to.n * to.d * to.h, |row| {
            let (n, d, h) = (row / (to.d * to.h), row / to.h % to.d, row % to.h);
            // SAFETY: rows do not overlap, and each is one task.
            let row = unsafe {
                shared
                    .slice_mut((n * to.d + d) * plane + h * to.w * to.c..(n * to.d + d) * plane + (h + 1) * to.w * to.c)
            };
            let sample = &inputs[0][n * input.sample()..][..input.sample()];
            dispatch(self.isa, Deal { sample, input, window, place: [d, h], to: row });
        });
        let mut all = inputs.to_vec();
        all[0] = copy;
        self.convolution.forward(Io { inputs: &all, output, in_place, scratch, pool });
    }

    fn algorithm(&self) -> String {
        format!("phases, {}", self.convolution.algorithm())
    }

    fn flops(&self) -> u64 {
        self.split.work.flops()
    }
}

/// One row of the copy: `(w, phases, c)`.
struct Deal<'a> {
    sample: &'a [f32],
    input: Shape,
    window: Window,
    /// Plane and row.
    place: [usize; 2],
    to: &'a mut [f32],
}

impl Kernel for Deal<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { sample, input, window, place: [plane, row], to } = self;
        let Window { stride, padding, .. } = window;
        // The phases of a row of the input are neighbours there: one run for each point of the copy.
        let run = stride[2] * input.c;
        let pixel = stride[0] * stride[1] * run;
        let before = padding[2][0] * input.c;
        let width = input.w * input.c;
        // The points whose runs lie inside, the first and the last of them perhaps not wholly.
        let inside = before.div_ceil(run)..((width + before) / run).min(to.len() / pixel);
        for phase in 0..stride[0] * stride[1] {
            let position = |at: usize, phase: usize, axis: usize, size: usize| {
                (at * stride[axis] + phase).checked_sub(padding[axis][0]).filter(|&position| position < size)
            };
            let from = position(plane, phase / stride[1], 0, input.d).zip(position(row, phase % stride[1], 1, input.h));
            let from = from.map(|(d, h)| &sample[(d * input.h + h) * width..][..width]);
            for point in 0..to.len() / pixel {
                let start = point * pixel + phase * run;
                let to = &mut to[start..start + run];
                match from {
                    Some(from) if inside.contains(&point) => {
                        super::super::lanes::copy(s, &from[point * run - before..][..run], to);
                    }
                    Some(from) => {
                        for (i, to) in to.iter_mut().enumerate() {
                            *to = (point * run + i)
                                .checked_sub(before)
                                .and_then(|at| from.get(at))
                                .copied()
                                .unwrap_or(0.0);
                        }
                    }
                    None => to.fill(0.0),
                }
            }
        }
    }
}
