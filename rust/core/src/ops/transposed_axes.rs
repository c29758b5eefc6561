//! The backward pass of what is linear along each axis: interpolation, average pooling.
//!
//! Forward `y[od, oh, ow] = Σ a[od, d] b[oh, h] c[ow, w] x[d, h, w]` with few weights that are not 0 for each output; so
//! `d_x[d, h, w] = Σ a[od, d] b[oh, h] c[ow, w] d_y[od, oh, ow]`, for every sample and channel, over the outputs that see the
//! input. Every row of `d_x` is gathered by one task: first the rows of `d_y` that count are added up, then the points of
//! that sum. Nothing of the forward pass is needed.

use super::lanes::{load, store};
use super::training::Gradient;
use crate::buffer::align_up;
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// For every input position of an axis, the output positions that see it, and how: their weights, in most cases.
pub(super) type Readers<T = f32> = Vec<Vec<(usize, T)>>;

/// The readers of `size` input positions, from what each output position sees.
pub(super) fn readers<T>(size: usize, seen: impl Iterator<Item = impl Iterator<Item = (usize, T)>>) -> Readers<T> {
    let mut readers: Readers<T> = (0..size).map(|_| Vec::new()).collect();
    for (output, seen) in seen.enumerate() {
        seen.for_each(|(input, how)| readers[input].push((output, how)));
    }
    readers
}

/// A map that is linear along each axis, in reverse.
#[derive(Clone, Debug)]
pub(super) struct TransposedAxes {
    pub(super) isa: Isa,
    pub(super) threads: usize,
    pub(super) input: Shape,
    pub(super) output: Shape,
    pub(super) readers: [Readers; 3],
}

impl TransposedAxes {
    /// Elements of scratch memory, for all threads.
    pub(super) fn scratch(&self) -> usize {
        self.threads * align_up(self.output.w * self.output.c)
    }

    /// Writes the gradient of the input.
    pub(super) fn run(&self, d_y: &[f32], d_x: Gradient<'_>, scratch: &mut [f32], pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, input, output, readers: [along_d, along_h, along_w], .. } = self;
        let (from, to) = (output.w * output.c, input.w * input.c);
        let rows = input.n * input.d * input.h;
        let height = (CHUNK / from.max(to)).max(1);
        let Gradient { values, plus } = d_x;
        let d_x = SharedMut::new(values);
        pool.for_each_scratch(rows.div_ceil(height), scratch, |task, scratch| {
            let mut sources = Vec::new();
            for row in task * height..rows.min((task + 1) * height) {
                let (n, d, h) = (row / input.h / input.d, row / input.h % input.d, row % input.h);
                sources.clear();
                for &(od, weight_d) in &along_d[d] {
                    let weights = along_h[h].iter();
                    sources
                        .extend(weights.map(|&(oh, weight_h)| {
                            (((n * output.d + od) * output.h + oh) * from, weight_d * weight_h)
                        }));
                }
                let x = match *sources {
                    [(start, 1.0)] => &d_y[start..start + from],
                    _ => {
                        let sum = &mut scratch[..from];
                        dispatch(*isa, Blend { x: d_y, sources: &sources, y: sum });
                        sum
                    }
                };
                let range = row * to..(row + 1) * to;
                let plus = plus.map(|plus| &plus[range.clone()]);
                // SAFETY: every row belongs to one task.
                let y = unsafe { d_x.slice_mut(range) };
                dispatch(*isa, Points { x, readers: along_w, plus, y, c: input.c });
            }
        });
    }
}

/// The weighted sum of rows of `x` that start at the sources.
pub(super) struct Blend<'a> {
    pub(super) x: &'a [f32],
    pub(super) sources: &'a [(usize, f32)],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, sources, y } = self;
        assert!(sources.iter().all(|&(start, _)| start + y.len() <= x.len()));
        for (vector, y) in y.chunks_mut(S::LANES).enumerate() {
            let tail = (y.len() < S::LANES).then(|| simd.first(y.len()));
            let mut sum = simd.splat(0.0);
            for &(start, weight) in sources {
                // SAFETY: as asserted, the row is in `x`; the vector or the tail ends with it.
                let x = unsafe { load(simd, x.as_ptr().add(start + vector * S::LANES), tail) };
                sum = simd.fma(x, simd.splat(weight), sum);
            }
            // SAFETY: `y` is a whole vector or as long as the tail.
            unsafe { store(simd, y.as_mut_ptr(), sum, tail) };
        }
    }
}

/// Every point of a row: the weighted sum of its readers in `x`.
struct Points<'a> {
    x: &'a [f32],
    readers: &'a Readers,
    plus: Option<&'a [f32]>,
    y: &'a mut [f32],
    c: usize,
}

impl Kernel for Points<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, readers, plus, y, c } = self;
        assert!(plus.is_none_or(|plus| plus.len() == y.len()));
        for (point, (y, readers)) in y.chunks_exact_mut(c).zip(readers).enumerate() {
            assert!(readers.iter().all(|&(reader, _)| (reader + 1) * c <= x.len()));
            for channel in (0..c).step_by(S::LANES) {
                let tail = (c - channel < S::LANES).then(|| simd.first(c - channel));
                // SAFETY: a whole vector of a point's channels, or the rest of them; the readers are points of `x`, as
                // asserted, and `plus` is as long as all of `y`.
                unsafe {
                    let mut sum = match plus {
                        Some(plus) => load(simd, plus.as_ptr().add(point * c + channel), tail),
                        None => simd.splat(0.0),
                    };
                    for &(reader, weight) in readers {
                        let x = load(simd, x.as_ptr().add(reader * c + channel), tail);
                        sum = simd.fma(x, simd.splat(weight), sum);
                    }
                    store(simd, y.as_mut_ptr().add(channel), sum, tail);
                }
            }
        }
    }
}
