//! AVX-512: 16 lanes, 32 registers.

use super::{Isa, Simd, for_rows};
use std::arch::x86_64::*;

/// Proof of AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor must have the features.
    pub(super) unsafe fn new() -> Avx512 {
        Avx512(())
    }
}

/// An intrinsic that only needs the instruction set.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: an `Avx512` value exists only where the processor has these instructions.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    const ISA: Isa = Isa::Avx512;
    const LANES: usize = 16;
    // 28 accumulators, 2 vectors of weights and a broadcast: 31 of 32 registers.
    const TILE_ROWS: usize = 14;
    const TILE_VECTORS: usize = 2;

    type V = __m512;
    type M = __mmask16;
    type I = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        intrinsic!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller answers for LANES floats.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller answers for LANES floats.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    fn first(self, n: usize) -> Self::M {
        if n >= 16 { !0 } else { (1 << n) - 1 }
    }

    #[inline(always)]
    unsafe fn load_masked(self, from: *const f32, mask: Self::M) -> Self::V {
        // SAFETY: the caller answers for the true lanes; the instruction touches no other.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, v: Self::V, mask: Self::M) {
        // SAFETY: the caller answers for the true lanes; the instruction touches no other.
        unsafe { _mm512_mask_storeu_ps(to, mask, v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
        // `a` is what a fold has so far: the test of `b` is not in the chain of its dependencies.
        intrinsic!(_mm512_mask_max_ps(b, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(b, b), b, a))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        intrinsic!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn floor(self, a: Self::V) -> Self::V {
        intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        intrinsic!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn less(self, a: Self::V, b: Self::V) -> Self::M {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }

    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn reduce_add(self, v: Self::V) -> f32 {
        intrinsic!(_mm512_reduce_add_ps(v))
    }

    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        intrinsic!(_mm512_reduce_max_ps(v))
    }

    #[inline(always)]
    fn broadcast_within(self, width: usize, lane: usize) -> Self::I {
        debug_assert!(width.is_power_of_two() && width <= 16 && lane < width);
        let lanes: [i32; 16] = std::array::from_fn(|i| ((i & !(width - 1)) + lane) as i32);
        // SAFETY: the array has 16 numbers of 32 bits.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn permute(self, v: Self::V, lanes: Self::I) -> Self::V {
        intrinsic!(_mm512_permutexvar_ps(lanes, v))
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, step: usize, [rows, columns]: [usize; 2], to: *mut f32) {
        let (mask, zero) = (self.first(columns), self.splat(0.0));
        let (mut a, mut b) = ([zero; 16], [zero; 16]);
        for_rows!(16, row, {
            if row < rows {
                // SAFETY: the caller answers for this row.
                a[row] = unsafe { self.load_masked(from.add(row * step), mask) };
            }
        });
        // Squares of 2, then of 4: vector `4 g + j` has columns `4 l + j` of rows `4 g ..` in its quarter l.
        for_rows!(8, i, {
            b[2 * i] = intrinsic!(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]));
            b[2 * i + 1] = intrinsic!(_mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
        });
        for_rows!(4, g, {
            for_rows!(2, i, {
                let (above, below) = (b[4 * g + i], b[4 * g + 2 + i]);
                a[4 * g + 2 * i] = intrinsic!(_mm512_shuffle_ps::<0x44>(above, below));
                a[4 * g + 2 * i + 1] = intrinsic!(_mm512_shuffle_ps::<0xee>(above, below));
            });
        });
        // Then of quarters.
        for_rows!(4, j, {
            let even = intrinsic!(_mm512_shuffle_f32x4::<0x88>(a[j], a[4 + j]));
            let odd = intrinsic!(_mm512_shuffle_f32x4::<0xdd>(a[j], a[4 + j]));
            let even_below = intrinsic!(_mm512_shuffle_f32x4::<0x88>(a[8 + j], a[12 + j]));
            let odd_below = intrinsic!(_mm512_shuffle_f32x4::<0xdd>(a[8 + j], a[12 + j]));
            b[j] = intrinsic!(_mm512_shuffle_f32x4::<0x88>(even, even_below));
            b[4 + j] = intrinsic!(_mm512_shuffle_f32x4::<0x88>(odd, odd_below));
            b[8 + j] = intrinsic!(_mm512_shuffle_f32x4::<0xdd>(even, even_below));
            b[12 + j] = intrinsic!(_mm512_shuffle_f32x4::<0xdd>(odd, odd_below));
        });
        for_rows!(16, column, {
            // SAFETY: the caller answers for the square.
            unsafe { self.store(to.add(column * 16), b[column]) };
        });
    }

    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(address.cast()))
    }

    #[inline(always)]
    fn prefetch_second_level(self, address: *const f32) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T1>(address.cast()))
    }
}
