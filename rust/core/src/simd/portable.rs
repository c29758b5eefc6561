//! Vectors as arrays of eight floats: the compiler turns them into whatever the build targets (SSE2, NEON).

use super::{Isa, Simd};

/// Needs nothing of the processor.
#[derive(Clone, Copy)]
pub(super) struct Portable(());

impl Portable {
    pub(super) fn new() -> Portable {
        Portable(())
    }
}

const LANES: usize = 8;

/// Eight lanes.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Lanes<T>([T; LANES]);

#[inline(always)]
fn map(a: Lanes<f32>, f: impl Fn(f32) -> f32) -> Lanes<f32> {
    let mut out = a;
    for i in 0..LANES {
        out.0[i] = f(a.0[i]);
    }
    out
}

#[inline(always)]
fn zip(a: Lanes<f32>, b: Lanes<f32>, f: impl Fn(f32, f32) -> f32) -> Lanes<f32> {
    let mut out = a;
    for i in 0..LANES {
        out.0[i] = f(a.0[i], b.0[i]);
    }
    out
}

impl Simd for Portable {
    const ISA: Isa = Isa::Portable;
    const LANES: usize = LANES;
    // SSE2 has 16 registers of 4 floats, NEON 32: 8 and 24 of them accumulate.
    const TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 4 };
    const TILE_VECTORS: usize = if cfg!(target_arch = "aarch64") { 2 } else { 1 };

    type V = Lanes<f32>;
    type M = Lanes<bool>;
    type I = Lanes<u8>;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        Lanes([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller answers for LANES floats.
        Lanes(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller answers for LANES floats.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }

    #[inline(always)]
    fn first(self, n: usize) -> Self::M {
        Lanes(std::array::from_fn(|i| i < n))
    }

    #[inline(always)]
    unsafe fn load_masked(self, from: *const f32, mask: Self::M) -> Self::V {
        let mut out = self.splat(0.0);
        for i in 0..LANES {
            if mask.0[i] {
                // SAFETY: the caller answers for the true lanes.
                out.0[i] = unsafe { *from.add(i) };
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, v: Self::V, mask: Self::M) {
        for i in 0..LANES {
            if mask.0[i] {
                // SAFETY: the caller answers for the true lanes.
                unsafe { *to.add(i) = v.0[i] };
            }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..LANES {
            // Without the instruction mul_add is a call into the C library, a hundred times slower.
            out.0[i] = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                a.0[i].mul_add(b.0[i], c.0[i])
            } else {
                a.0[i] * b.0[i] + c.0[i]
            };
        }
        out
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if b > a || b.is_nan() { b } else { a })
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        map(a, f32::sqrt)
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        map(a, f32::round_ties_even)
    }

    #[inline(always)]
    fn floor(self, a: Self::V) -> Self::V {
        map(a, f32::floor)
    }

    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        map(n, |n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn less(self, a: Self::V, b: Self::V) -> Self::M {
        Lanes(std::array::from_fn(|i| a.0[i] < b.0[i]))
    }

    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::V, b: Self::V) -> Self::V {
        Lanes(std::array::from_fn(|i| if mask.0[i] { a.0[i] } else { b.0[i] }))
    }

    #[inline(always)]
    fn reduce_add(self, v: Self::V) -> f32 {
        let [a, b, c, d, e, f, g, h] = v.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        v.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn broadcast_within(self, width: usize, lane: usize) -> Self::I {
        debug_assert!(width.is_power_of_two() && width <= LANES && lane < width);
        Lanes(std::array::from_fn(|i| ((i & !(width - 1)) + lane) as u8))
    }

    #[inline(always)]
    fn permute(self, v: Self::V, lanes: Self::I) -> Self::V {
        Lanes(std::array::from_fn(|i| v.0[lanes.0[i] as usize % LANES]))
    }

    #[inline(always)]
    fn prefetch(self, _address: *const f32) {}

    #[inline(always)]
    fn prefetch_second_level(self, _address: *const f32) {}
}
