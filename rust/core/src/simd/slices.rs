//! Vectors from and to slices, checked: for code that is bound by memory and wants no unsafe block of its own.

use super::Simd;

/// The first `LANES` elements of `from`, or all of a shorter slice and zeros after them.
#[inline(always)]
pub fn load<S: Simd>(simd: S, from: &[f32]) -> S::V {
    if from.len() >= S::LANES {
        // SAFETY: `LANES` floats are there, as just seen.
        unsafe { simd.load(from.as_ptr()) }
    } else {
        // SAFETY: the mask ends where the slice does.
        unsafe { simd.load_masked(from.as_ptr(), simd.first(from.len())) }
    }
}

/// Writes the first `LANES` elements of `to`, or all of a shorter slice.
#[inline(always)]
pub fn store<S: Simd>(simd: S, to: &mut [f32], v: S::V) {
    if to.len() >= S::LANES {
        // SAFETY: `LANES` floats are there, as just seen.
        unsafe { simd.store(to.as_mut_ptr(), v) };
    } else {
        // SAFETY: the mask ends where the slice does.
        unsafe { simd.store_masked(to.as_mut_ptr(), v, simd.first(to.len())) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, dispatch};

    struct Copy<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Copy<'_> {
        type Output = f32;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f32 {
            let v = load(simd, self.0);
            store(simd, self.1, v);
            simd.reduce_add(v)
        }
    }

    #[test]
    fn no_more_than_there_is() {
        for isa in Isa::available() {
            for length in [0, 1, isa.lanes() - 1, isa.lanes(), isa.lanes() + 1] {
                let from = vec![2.0; length];
                let mut to = vec![0.0; isa.lanes() + 1];
                let sum = dispatch(isa, Copy(&from, &mut to[..length]));
                let moved = length.min(isa.lanes());
                assert_eq!(sum, 2.0 * moved as f32);
                assert!(to.iter().enumerate().all(|(i, &v)| v == if i < moved { 2.0 } else { 0.0 }));
            }
        }
    }
}
