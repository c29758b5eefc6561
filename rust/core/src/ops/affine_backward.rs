//! The elementwise pass in reverse. With `y = f(z)` and `z = x * scale + shift + residual`:
//!
//! `d_z = d_y * f'(z)`, `d_residual = d_z`, `d_x = d_z * factor[c] + (x - center[c]) * slope[c] + offset[c]`
//!
//! where `factor` is the scale, and the other terms are those of a norm, whose scale and shift depend on `x`.

use std::ops::Range;

use super::activation::Activation;
use super::lanes::{load, store};
use super::training::Gradient;
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// The arguments of the pass. Coefficients are rows of `row` elements, a multiple of the channels; `factor` may have one row for
/// each sample.
#[derive(Clone, Copy)]
pub(super) struct BackwardPass<'a> {
    pub(super) isa: Isa,
    pub(super) d_y: &'a [f32],
    pub(super) activation: Activation,
    /// What the derivative of the activation takes; not read if that is linear.
    pub(super) value: &'a [f32],
    pub(super) factor: &'a [f32],
    pub(super) row: usize,
    pub(super) norm: Option<Norm<'a>>,
}

/// The terms of a norm.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub(super) x: &'a [f32],
    pub(super) center: &'a [f32],
    pub(super) slope: &'a [f32],
    pub(super) offset: &'a [f32],
}

/// Where a gradient goes.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    values: SharedMut<'a>,
    plus: Option<&'a [f32]>,
}

impl BackwardPass<'_> {
    /// Writes the gradients of `x` and of the residual.
    pub(super) fn run(self, d_x: Option<Gradient<'_>>, d_residual: Option<Gradient<'_>>, pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let (length, row) = (self.d_y.len(), self.row);
        let samples = self.factor.len() / row;
        assert!(samples * row == self.factor.len() && length.is_multiple_of(samples));
        assert!(self.activation == Activation::Linear || self.value.len() == length);
        assert!(self.norm.is_none_or(|norm| {
            let Norm { x, center, slope, offset } = norm;
            x.len() == length && [center, slope, offset].iter().all(|terms| terms.len() == row)
        }));
        let sample = length / samples;
        let chunk = (CHUNK / row).max(1) * row;
        let chunks = sample.div_ceil(chunk);
        let d_x = d_x.map(|gradient| Target::new(gradient, length));
        let d_residual = d_residual.map(|gradient| Target::new(gradient, length));
        pool.for_each(samples * chunks, |task| {
            let (n, start) = (task / chunks, task % chunks * chunk);
            let factor = &self.factor[n * row..(n + 1) * row];
            let range = n * sample + start..n * sample + sample.min(start + chunk);
            dispatch(self.isa, Part { pass: Self { factor, ..self }, range, d_x, d_residual });
        });
    }
}

impl<'a> Target<'a> {
    pub(super) fn new(gradient: Gradient<'a>, length: usize) -> Self {
        assert!(gradient.values.len() == length && gradient.plus.is_none_or(|plus| plus.len() == length));
        Self { values: SharedMut::new(gradient.values), plus: gradient.plus }
    }

    /// # Safety
    /// The vector, or the lanes of the tail, must be inside at `i`, and belong to the calling task.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd>(&self, simd: S, i: usize, value: S::V, tail: Option<S::M>) {
        // SAFETY: by this function's contract.
        unsafe {
            let value = match self.plus {
                Some(plus) => simd.add(value, load(simd, plus.as_ptr().add(i), tail)),
                None => value,
            };
            store(simd, self.values.as_mut_ptr().add(i), value, tail);
        }
    }
}

/// A range of elements that starts with a row.
struct Part<'a> {
    pass: BackwardPass<'a>,
    range: Range<usize>,
    d_x: Option<Target<'a>>,
    d_residual: Option<Target<'a>>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let row = self.pass.factor.len();
        for start in self.range.clone().step_by(row) {
            let length = row.min(self.range.end - start);
            let whole = length - length % S::LANES;
            for channel in (0..whole).step_by(S::LANES) {
                // SAFETY: a whole vector of the row, which is in the range of this task.
                unsafe { self.vector(simd, start + channel, channel, None) };
            }
            if whole < length {
                // SAFETY: the mask ends with the row.
                unsafe { self.vector(simd, start + whole, whole, Some(simd.first(length - whole))) };
            }
        }
    }
}

impl Part<'_> {
    /// # Safety
    /// The vector, or the lanes of the tail, must be inside the range at `i`, and inside the rows at `channel`.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, simd: S, i: usize, channel: usize, tail: Option<S::M>) {
        let BackwardPass { d_y, activation, value, factor, norm, .. } = self.pass;
        // SAFETY: by this function's contract; rows have one length, maps another.
        unsafe {
            let row = |row: &[f32]| load(simd, row.as_ptr().add(channel), tail);
            let mut d_z = load(simd, d_y.as_ptr().add(i), tail);
            if activation != Activation::Linear {
                d_z = activation.backward(simd, load(simd, value.as_ptr().add(i), tail), d_z);
            }
            if let Some(d_residual) = &self.d_residual {
                d_residual.write(simd, i, d_z, tail);
            }
            if let Some(d_x) = &self.d_x {
                let mut sum = simd.mul(d_z, row(factor));
                if let Some(Norm { x, center, slope, offset }) = norm {
                    let deviation = simd.sub(load(simd, x.as_ptr().add(i), tail), row(center));
                    sum = simd.add(sum, simd.fma(deviation, row(slope), row(offset)));
                }
                d_x.write(simd, i, sum, tail);
            }
        }
    }
}
