//! Folds of many vectors into one: sum and maximum, over windows (pooling) and over whole maps (global pooling).

use std::marker::PhantomData;
use std::ops::Range;

use super::lanes::{load, store};
use crate::buffer::align_up;
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// How two values become one. Must not care about order, rounding apart.
pub(super) trait Fold: Copy + Send + Sync {
    /// The result for no values.
    const START: f32;

    /// `acc` and `x` as one.
    fn fold<S: Simd>(simd: S, acc: S::V, x: S::V) -> S::V;
}

/// `acc + x`
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum;

impl Fold for Sum {
    const START: f32 = 0.0;

    #[inline(always)]
    fn fold<S: Simd>(simd: S, acc: S::V, x: S::V) -> S::V {
        simd.add(acc, x)
    }
}

/// The larger of `acc` and `x`; NaN if either is, as in PyTorch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Max;

impl Fold for Max {
    const START: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn fold<S: Simd>(simd: S, acc: S::V, x: S::V) -> S::V {
        simd.max_or_nan(acc, x)
    }
}

/// A fold over all points of every sample, in slabs of points that depend on the shape only: each slab is folded by
/// one task, and the slabs are combined in order, so that the number of threads cannot change a bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slabs {
    isa: Isa,
    shape: Shape,
    /// Points in a slab, but for the last.
    points: usize,
}

impl Slabs {
    /// More slabs than this only make the combination longer.
    const MOST: usize = 64;

    /// Checks that the slabs of maps of this shape can be addressed.
    pub(super) fn infer(shape: Shape) -> Result<(), String> {
        let most = Shape::new(shape.n, [1, 1, Self::MOST], align_up(shape.c));
        most.checked_len().map(|_| ()).ok_or_else(|| format!("too many samples: {shape}"))
    }

    /// The plan for maps of this shape.
    pub(super) fn new(isa: Isa, shape: Shape) -> Self {
        /// Elements that are worth a task.
        const LEAST: usize = 16 * 1024;
        let spatial = shape.spatial();
        let points = (LEAST / shape.c).max(spatial.div_ceil(Self::MOST)).clamp(1, spatial.max(1));
        Self { isa, shape, points }
    }

    /// Slabs of a sample.
    pub(super) fn slabs(&self) -> usize {
        self.shape.spatial().div_ceil(self.points)
    }

    /// The elements of slab `slab` of all slabs of all samples.
    pub(super) fn range(&self, slab: usize) -> Range<usize> {
        let (n, slab) = (slab / self.slabs(), slab % self.slabs());
        let points = slab * self.points..self.shape.spatial().min((slab + 1) * self.points);
        let start = n * self.shape.sample();
        start + points.start * self.shape.c..start + points.end * self.shape.c
    }

    /// Elements of scratch memory that [`Slabs::fold`] needs.
    pub(super) fn scratch(&self) -> usize {
        self.shape.n * self.slabs() * align_up(self.shape.c)
    }

    /// Folds the points of `x` into the vectors `y`, and multiplies them by `factor`.
    pub(super) fn fold<F: Fold>(&self, x: &[f32], y: &mut [f32], scratch: &mut [f32], pool: &Pool, factor: f32) {
        let Self { isa, shape, .. } = *self;
        let (slabs, pitch) = (self.slabs(), align_up(shape.c));
        let scratch = &mut scratch[..self.scratch()];
        pool.for_each_chunk(scratch, pitch, |task, partial| {
            let x = &x[self.range(task)];
            dispatch(
                isa,
                Points::<F> { x, y: &mut partial[..shape.c], pitch: shape.c, factor: 1.0, kind: PhantomData },
            );
        });
        let partials: &[f32] = scratch;
        let combine = |n: usize, y: &mut [f32]| {
            let x = &partials[n * slabs * pitch..][..slabs * pitch];
            dispatch(isa, Points::<F> { x, y, pitch, factor, kind: PhantomData });
        };
        let y = SharedMut::new(y);
        // SAFETY: the vectors of different samples do not overlap.
        pool.for_each(shape.n, |n| combine(n, unsafe { y.slice_mut(n * shape.c..(n + 1) * shape.c) }));
    }
}

/// Folds the rows of `x`, `y.len()` long and `pitch` apart, and writes the result times `factor`.
struct Points<'a, F> {
    x: &'a [f32],
    y: &'a mut [f32],
    pitch: usize,
    factor: f32,
    kind: PhantomData<F>,
}

impl<F: Fold> Kernel for Points<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let c = self.y.len();
        assert!(c <= self.pitch && self.x.len().is_multiple_of(self.pitch));
        let mut start = 0;
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

impl<F: Fold> Points<'_, F> {
    /// `N` vectors of channels from `start`, or the channels of the tail.
    #[inline(always)]
    fn columns<S: Simd, const N: usize>(&mut self, simd: S, start: usize, tail: Option<S::M>) {
        /// Rows that are folded into one value before that is folded into the result: rounding errors grow with the
        /// sum of the two numbers, not with their product.
        const RUN: usize = 128;
        let neutral = simd.splat(F::START);
        let mut total = [neutral; N];
        for run in self.x.chunks(RUN * self.pitch) {
            // Even and odd rows apart: a vector waits less for the one before.
            let mut parts = [[neutral; N]; 2];
            for pair in run.chunks(2 * self.pitch) {
                for (part, row) in parts.iter_mut().zip(pair.chunks(self.pitch)) {
                    for (v, acc) in part.iter_mut().enumerate() {
                        debug_assert!(start + v * S::LANES < row.len());
                        // SAFETY: every row has the channels of `y`, which are at least as many as `start`, `N`
                        // vectors or the tail.
                        let x = unsafe { load(simd, row.as_ptr().add(start + v * S::LANES), tail) };
                        *acc = F::fold(simd, *acc, x);
                    }
                }
            }
            for v in 0..N {
                total[v] = F::fold(simd, total[v], F::fold(simd, parts[0][v], parts[1][v]));
            }
        }
        for (v, &total) in total.iter().enumerate() {
            let y = simd.mul(total, simd.splat(self.factor));
            // SAFETY: `y` has `N` vectors or the tail from `start`.
            unsafe { store(simd, self.y.as_mut_ptr().add(start + v * S::LANES), y, tail) };
        }
    }
}
