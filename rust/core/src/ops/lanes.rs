//! Whole vectors and the tail of a row through one function.

use crate::simd::Simd;

/// A vector: whole, or the lanes of the tail's mask.
///
/// # Safety
/// The lanes must be readable; the mask comes from [`Simd::first`].
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(simd: S, from: *const f32, tail: Option<S::M>) -> S::V {
    // SAFETY: by this function's contract.
    unsafe {
        match tail {
            None => simd.load(from),
            Some(mask) => simd.load_masked(from, mask),
        }
    }
}

/// Writes a vector: whole, or the lanes of the tail's mask.
///
/// # Safety
/// The lanes must be writable; the mask comes from [`Simd::first`].
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(simd: S, to: *mut f32, v: S::V, tail: Option<S::M>) {
    // SAFETY: by this function's contract.
    unsafe {
        match tail {
            None => simd.store(to, v),
            Some(mask) => simd.store_masked(to, v, mask),
        }
    }
}

/// Copies a row.
#[inline(always)]
pub(super) fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    assert!(from.len() == to.len());
    let whole = to.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: a whole vector from `i`, in both.
        unsafe { simd.store(to.as_mut_ptr().add(i), simd.load(from.as_ptr().add(i))) };
    }
    if whole < to.len() {
        let tail = simd.first(to.len() - whole);
        // SAFETY: the tail ends with both.
        unsafe {
            simd.store_masked(to.as_mut_ptr().add(whole), simd.load_masked(from.as_ptr().add(whole), tail), tail)
        };
    }
}

/// Copies a row, plus another row if there is one.
#[inline(always)]
pub(super) fn copy_plus<S: Simd>(simd: S, from: &[f32], plus: Option<&[f32]>, to: &mut [f32]) {
    let Some(plus) = plus else { return copy(simd, from, to) };
    assert!(from.len() == to.len() && plus.len() == to.len());
    for i in (0..to.len()).step_by(S::LANES) {
        let left = to.len() - i;
        let tail = (left < S::LANES).then(|| simd.first(left));
        // SAFETY: a whole vector from `i`, or the rest, in all three.
        unsafe {
            let sum = simd.add(load(simd, from.as_ptr().add(i), tail), load(simd, plus.as_ptr().add(i), tail));
            store(simd, to.as_mut_ptr().add(i), sum, tail);
        }
    }
}

/// Adds a row to another.
#[inline(always)]
pub(super) fn add<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    assert!(from.len() == to.len());
    for i in (0..to.len()).step_by(S::LANES) {
        let left = to.len() - i;
        let tail = (left < S::LANES).then(|| simd.first(left));
        // SAFETY: a whole vector from `i`, or the rest, in both.
        unsafe {
            let sum = simd.add(load(simd, from.as_ptr().add(i), tail), load(simd, to.as_ptr().add(i), tail));
            store(simd, to.as_mut_ptr().add(i), sum, tail);
        }
    }
}
