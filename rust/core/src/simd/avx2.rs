//! AVX2 and FMA: 8 lanes, 16 registers.

use super::{Isa, Simd, for_rows};
use std::arch::x86_64::*;

/// Proof of AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor must have the features.
    pub(super) unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

/// An intrinsic that only needs the instruction set.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: an `Avx2` value exists only where the processor has these instructions.
        unsafe { $call }
    };
}

/// Lanes where a mask is true have the upper bit set.
const LANE_NUMBERS: [i32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

impl Simd for Avx2 {
    const ISA: Isa = Isa::Avx2;
    const LANES: usize = 8;
    // 12 accumulators, 2 vectors of weights and a broadcast: 15 of 16 registers.
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    type V = __m256;
    type M = __m256i;
    type I = __m256i;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        intrinsic!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller answers for LANES floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller answers for LANES floats.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    fn first(self, n: usize) -> Self::M {
        // SAFETY: LANE_NUMBERS has 8 numbers of 32 bits; the rest only needs the instruction set.
        unsafe {
            let lanes = _mm256_loadu_si256(LANE_NUMBERS.as_ptr().cast());
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), lanes)
        }
    }

    #[inline(always)]
    unsafe fn load_masked(self, from: *const f32, mask: Self::M) -> Self::V {
        // SAFETY: the caller answers for the true lanes; the instruction touches no other.
        unsafe { _mm256_maskload_ps(from, mask) }
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, v: Self::V, mask: Self::M) {
        // SAFETY: the caller answers for the true lanes; the instruction touches no other.
        unsafe { _mm256_maskstore_ps(to, mask, v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
        // All ones are a NaN. `a` is what a fold has so far: the test of `b` is not in the chain of its dependencies.
        intrinsic!(_mm256_or_ps(_mm256_max_ps(b, a), _mm256_cmp_ps::<_CMP_UNORD_Q>(b, b)))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        intrinsic!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        intrinsic!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn floor(self, a: Self::V) -> Self::V {
        intrinsic!(_mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        intrinsic!({
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn less(self, a: Self::V, b: Self::V) -> Self::M {
        intrinsic!(_mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }

    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask)))
    }

    #[inline(always)]
    fn reduce_add(self, v: Self::V) -> f32 {
        intrinsic!({
            let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
        })
    }

    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        intrinsic!({
            let half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
        })
    }

    #[inline(always)]
    fn broadcast_within(self, width: usize, lane: usize) -> Self::I {
        debug_assert!(width.is_power_of_two() && width <= 8 && lane < width);
        let lanes: [i32; 8] = std::array::from_fn(|i| ((i & !(width - 1)) + lane) as i32);
        // SAFETY: the array has 8 numbers of 32 bits.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn permute(self, v: Self::V, lanes: Self::I) -> Self::V {
        intrinsic!(_mm256_permutevar8x32_ps(v, lanes))
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, step: usize, [rows, columns]: [usize; 2], to: *mut f32) {
        let (mask, zero) = (self.first(columns), self.splat(0.0));
        let (mut a, mut b) = ([zero; 8], [zero; 8]);
        for_rows!(8, row, {
            if row < rows {
                // SAFETY: the caller answers for this row.
                a[row] = unsafe { self.load_masked(from.add(row * step), mask) };
            }
        });
        // Squares of 2, then of 4: vector `4 g + j` has columns `4 l + j` of rows `4 g ..` in its half l.
        for_rows!(4, i, {
            b[2 * i] = intrinsic!(_mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]));
            b[2 * i + 1] = intrinsic!(_mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]));
        });
        for_rows!(2, g, {
            for_rows!(2, i, {
                a[4 * g + 2 * i] = intrinsic!(_mm256_shuffle_ps::<0x44>(b[4 * g + i], b[4 * g + 2 + i]));
                a[4 * g + 2 * i + 1] = intrinsic!(_mm256_shuffle_ps::<0xee>(b[4 * g + i], b[4 * g + 2 + i]));
            });
        });
        for_rows!(4, j, {
            // SAFETY: the first needs the instruction set only; the caller answers for the square.
            unsafe {
                self.store(to.add(j * 8), _mm256_permute2f128_ps::<0x20>(a[j], a[4 + j]));
                self.store(to.add((4 + j) * 8), _mm256_permute2f128_ps::<0x31>(a[j], a[4 + j]));
            }
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
