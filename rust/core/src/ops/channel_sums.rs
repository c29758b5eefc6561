//! Sums over all points of all samples, one for each channel: the reductions of norms and biases.
//!
//! The points are cut into slabs that depend on the shape alone. Each is summed in float32, in short runs, by one task;
//! the slabs are added up in order, in float64. The number of threads cannot change a bit.

use std::ops::Range;

use super::lanes::{load, store};
use crate::buffer::align_up;
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// `N` numbers of every element that are to be summed.
pub(super) trait Terms<const N: usize>: Sync {
    /// Those of the elements from `at`, which belong to the channels from `channel`, in a slab whose first row starts at
    /// `first`.
    ///
    /// # Safety
    /// The elements, or those of the tail's mask, exist.
    unsafe fn terms<S: Simd>(&self, simd: S, at: usize, channel: usize, first: usize, tail: Option<S::M>) -> [S::V; N];
}

/// How the points of a map are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChannelSums {
    isa: Isa,
    points: usize,
    channels: usize,
    /// Points of a slab, but for the last.
    slab: usize,
}

impl ChannelSums {
    /// The plan for maps of this shape.
    pub(super) fn new(isa: Isa, shape: Shape) -> Self {
        /// Elements that are worth a task.
        const LEAST: usize = 16 * 1024;
        /// More slabs than this only make the combination longer.
        const MOST: usize = 128;
        let points = shape.n * shape.spatial();
        let slab = (LEAST / shape.c).max(points.div_ceil(MOST)).clamp(1, points.max(1));
        Self { isa, points, channels: shape.c, slab }
    }

    /// The number of slabs.
    pub(super) fn slabs(&self) -> usize {
        self.points.div_ceil(self.slab)
    }

    /// The points of a slab.
    pub(super) fn range(&self, slab: usize) -> Range<usize> {
        slab * self.slab..self.points.min((slab + 1) * self.slab)
    }

    /// Elements of scratch memory for `n` sums.
    pub(super) fn scratch(&self, n: usize) -> usize {
        self.slabs() * n * align_up(self.channels)
    }

    /// Writes the sums of every slab to `scratch`: `(slab, N, channel)`, each row on a line of its own.
    pub(super) fn partial<const N: usize>(&self, terms: &impl Terms<N>, scratch: &mut [f32], pool: &Pool) {
        let pitch = align_up(self.channels);
        let scratch = &mut scratch[..self.scratch(N)];
        pool.for_each_chunk(scratch, N * pitch, |slab, sums| {
            let (points, channels) = (self.range(slab), self.channels);
            dispatch(self.isa, Slab { terms, points, channels, pitch, sums });
        });
    }

    /// The sums of slab `slab` as [`ChannelSums::partial`] left them.
    pub(super) fn row<'a>(&self, scratch: &'a [f32], n: usize, slab: usize, number: usize) -> &'a [f32] {
        let pitch = align_up(self.channels);
        &scratch[(slab * n + number) * pitch..][..self.channels]
    }

    /// The `N` sums of every channel.
    pub(super) fn total<const N: usize>(
        &self,
        terms: &impl Terms<N>,
        scratch: &mut [f32],
        pool: &Pool,
    ) -> [Vec<f64>; N] {
        self.partial(terms, scratch, pool);
        self.combine(scratch)
    }

    /// The sums of all slabs.
    pub(super) fn combine<const N: usize>(&self, scratch: &[f32]) -> [Vec<f64>; N] {
        std::array::from_fn(|number| {
            let mut total = vec![0.0; self.channels];
            for slab in 0..self.slabs() {
                let row = self.row(scratch, N, slab, number);
                total.iter_mut().zip(row).for_each(|(total, &sum)| *total += f64::from(sum));
            }
            total
        })
    }

    /// Adds the sum of `values` to `sums`: the gradient of a bias.
    pub(super) fn add(&self, values: &[f32], sums: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        let [total] = self.total(&Values(values), scratch, pool);
        sums.iter_mut().zip(total).for_each(|(sum, total)| *sum += total as f32);
    }
}

/// The elements themselves.
pub(super) struct Values<'a>(pub(super) &'a [f32]);

impl Terms<1> for Values<'_> {
    #[inline(always)]
    unsafe fn terms<S: Simd>(&self, simd: S, at: usize, _: usize, _: usize, tail: Option<S::M>) -> [S::V; 1] {
        // SAFETY: by this function's contract.
        [unsafe { load(simd, self.0.as_ptr().add(at), tail) }]
    }
}

struct Slab<'a, T, const N: usize> {
    terms: &'a T,
    points: Range<usize>,
    channels: usize,
    pitch: usize,
    sums: &'a mut [f32],
}

impl<T: Terms<N>, const N: usize> Kernel for Slab<'_, T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        /// Points that are summed before the sum is added to the total: rounding errors grow with the sum of the two
        /// numbers, not with their product. All channels of a run are read before the next: a slab may not stay cached.
        const RUN: usize = 64;
        self.sums.fill(0.0);
        for start in self.points.clone().step_by(RUN) {
            let run = start..self.points.end.min(start + RUN);
            let mut channel = 0;
            while channel + 2 * S::LANES <= self.channels {
                self.columns::<S, 2>(simd, run.clone(), channel, None);
                channel += 2 * S::LANES;
            }
            while channel < self.channels {
                let left = self.channels - channel;
                self.columns::<S, 1>(simd, run.clone(), channel, (left < S::LANES).then(|| simd.first(left)));
                channel += S::LANES;
            }
        }
    }
}

impl<T: Terms<N>, const N: usize> Slab<'_, T, N> {
    /// Adds `V` vectors of channels of a run, the last of which may be a tail.
    #[inline(always)]
    fn columns<S: Simd, const V: usize>(&mut self, simd: S, run: Range<usize>, channel: usize, tail: Option<S::M>) {
        let first = self.points.start * self.channels;
        let mut sums = [[simd.splat(0.0); N]; V];
        for point in run {
            for v in 0..V {
                let channel = channel + v * S::LANES;
                // SAFETY: the point is one of the map, and the tail ends with its channels.
                let terms = unsafe { self.terms.terms(simd, point * self.channels + channel, channel, first, tail) };
                for n in 0..N {
                    sums[v][n] = simd.add(sums[v][n], terms[n]);
                }
            }
        }
        for v in 0..V {
            for n in 0..N {
                let to = self.sums[n * self.pitch + channel + v * S::LANES..].as_mut_ptr();
                // SAFETY: a row of sums has all channels.
                unsafe { store(simd, to, simd.add(load(simd, to, tail), sums[v][n]), tail) };
            }
        }
    }
}
