//! Vectors of f32: one trait that every kernel is generic over, one implementation per instruction set.
//!
//! A kernel is a struct of its arguments with a `run` method ([`Kernel`]). [`dispatch()`] calls it with the vectors of an
//! [`Isa`] inside a function compiled for that instruction set. Everything between `dispatch` and the intrinsics must
//! be `#[inline(always)]`: whatever stays a function of its own is compiled for the baseline, and each intrinsic
//! in it becomes a call. For the same reason work is split among threads first, and each task dispatches by itself.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
pub mod math;
mod portable;
pub mod slices;

pub use dispatch::{Isa, dispatch, outlined};

/// Lanes of the widest vector.
pub const MOST_LANES: usize = 16;

/// Repeats `$body` with `$i` from 0 to `$count`, at most 16. A loop would do, if the compiler could be relied on to
/// unroll it: where it does not, the accumulators of a kernel live in memory and it is three times slower.
macro_rules! for_rows {
    ($count:expr, $i:ident, $body:block) => {
        for_rows!(@ $count, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $count:expr, $i:ident, $body:block, $($row:literal)*) => {
        $(if $row < $count {
            let $i: usize = $row;
            $body
        })*
    };
}
pub(crate) use for_rows;

/// The same pointer, but the compiler no longer knows where it comes from.
///
/// Left to itself it trades arithmetic on addresses, and loads that repeat, for registers that an unrolled kernel does not
/// have: one pointer for each row of a tile, one vector for each load that a loop repeats.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through the pointer")]
pub(crate) fn opaque(mut pointer: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    pointer
}

/// A computation that can run on any instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// The computation. Implementations carry `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The vectors of one instruction set. A value is proof that the processor has it: only `dispatch` makes one.
///
/// Arithmetic is IEEE single precision; [`Simd::fma`] rounds once on AVX2 and AVX-512, twice in the portable version.
pub trait Simd: Copy + Send + Sync + 'static {
    /// The instruction set.
    const ISA: Isa;
    /// Floats in a vector.
    const LANES: usize;
    /// Rows of the largest register tile of a matrix product.
    const TILE_ROWS: usize;
    /// Vectors in a row of the register tile.
    const TILE_VECTORS: usize;

    /// `LANES` floats.
    type V: Copy;
    /// One truth value per lane.
    type M: Copy;
    /// One lane number per lane.
    type I: Copy;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;

    /// Reads a vector; no alignment needed.
    ///
    /// # Safety
    /// `LANES` floats must be readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// Writes a vector; no alignment needed.
    ///
    /// # Safety
    /// `LANES` floats must be writable at `to`.
    unsafe fn store(self, to: *mut f32, v: Self::V);

    /// True in the first `n` lanes (all of them if `n` is larger).
    fn first(self, n: usize) -> Self::M;

    /// Reads the lanes where `mask`, which comes from [`Simd::first`], is true; the others are zero and not touched.
    ///
    /// # Safety
    /// The floats of the true lanes must be readable.
    unsafe fn load_masked(self, from: *const f32, mask: Self::M) -> Self::V;

    /// Writes the lanes where `mask`, which comes from [`Simd::first`], is true and touches no other.
    ///
    /// # Safety
    /// The floats of the true lanes must be writable.
    unsafe fn store_masked(self, to: *mut f32, v: Self::V, mask: Self::M);

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; NaN if either is.
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V;
    /// The square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// To the next integer below.
    fn floor(self, a: Self::V) -> Self::V;
    /// `2^n` for integral `n` in -126..=127.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// Where `a < b`; false for NaN.
    fn less(self, a: Self::V, b: Self::V) -> Self::M;
    /// `a` where `mask` is true, `b` elsewhere.
    fn select(self, mask: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// The sum of all lanes, halves first.
    fn reduce_add(self, v: Self::V) -> f32;
    /// The largest lane; NaN lanes may be ignored.
    fn reduce_max(self, v: Self::V) -> f32;

    /// Lane numbers that [`Simd::permute`] takes: lane `l` of its result is lane `(l - l % width) + lane` of its
    /// argument, i.e. `lane` is broadcast within each run of `width` lanes. `width` is a power of two up to `LANES`.
    fn broadcast_within(self, width: usize, lane: usize) -> Self::I;
    /// Rearranges the lanes.
    fn permute(self, v: Self::V, lanes: Self::I) -> Self::V;

    /// Writes the columns of a square of `LANES` by `LANES` floats, whose rows are `step` apart, one after the other to `to`.
    /// Only `rows` rows of `columns` floats are read: the rest is zeros.
    ///
    /// # Safety
    /// Those floats must be readable, and the square writable at `to`, which is not part of them.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, step: usize, [rows, columns]: [usize; 2], to: *mut f32) {
        for column in 0..Self::LANES {
            for row in 0..Self::LANES {
                // SAFETY: by this function's contract.
                unsafe {
                    let inside = row < rows && column < columns;
                    *to.add(column * Self::LANES + row) = if inside { *from.add(row * step + column) } else { 0.0 };
                }
            }
        }
    }

    /// Asks for the cache line at `address` to be brought to the caches; any address is allowed.
    fn prefetch(self, address: *const f32);

    /// As [`Simd::prefetch`], but not to the first level, where it would drive out what is in use.
    fn prefetch_second_level(self, address: *const f32);

    /// The absolute value.
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.max(a, self.sub(self.splat(0.0), a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs every operation on known lanes.
    struct Operations;

    impl Kernel for Operations {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let n = S::LANES;
            let lanes = |v: S::V| {
                let mut out = vec![0.0f32; n];
                // SAFETY: `out` has LANES floats.
                unsafe { s.store(out.as_mut_ptr(), v) };
                out
            };
            let vector = |f: &dyn Fn(usize) -> f32| {
                let data: Vec<f32> = (0..n).map(f).collect();
                // SAFETY: `data` has LANES floats.
                unsafe { s.load(data.as_ptr()) }
            };
            let x = vector(&|i| i as f32 - 2.5);
            let y = vector(&|i| 0.75 * i as f32);
            let check = |v: S::V, f: &dyn Fn(f32, f32) -> f32| {
                for (i, got) in lanes(v).into_iter().enumerate() {
                    assert_eq!(got, f(i as f32 - 2.5, 0.75 * i as f32), "lane {i}");
                }
            };
            check(s.add(x, y), &|x, y| x + y);
            check(s.sub(x, y), &|x, y| x - y);
            check(s.mul(x, y), &|x, y| x * y);
            check(s.div(y, x), &|x, y| y / x);
            check(s.fma(x, y, x), &|x, y| x * y + x);
            check(s.min(x, y), &f32::min);
            check(s.max(x, y), &f32::max);
            check(s.abs(x), &|x, _| x.abs());
            check(s.sqrt(y), &|_, y| y.sqrt());
            check(s.round(x), &|x, _| x.round_ties_even());
            check(s.floor(x), &|x, _| x.floor());
            check(s.power_of_two(s.floor(x)), &|x, _| x.floor().exp2());
            check(s.select(s.less(x, y), x, y), &|x, y| if x < y { x } else { y });
            let nan = s.splat(f32::NAN);
            check(s.max(nan, x), &|x, _| x);
            check(s.min(nan, x), &|x, _| x);
            assert!(lanes(s.max(x, nan)).iter().all(|v| v.is_nan()));
            check(s.max_or_nan(x, y), &f32::max);
            assert!(lanes(s.max_or_nan(x, nan)).iter().all(|v| v.is_nan()));
            assert!(lanes(s.max_or_nan(nan, x)).iter().all(|v| v.is_nan()));
            assert_eq!(s.reduce_add(y), 0.75 * (n * (n - 1) / 2) as f32);
            assert_eq!(s.reduce_max(x), n as f32 - 3.5);
            for count in 0..=n {
                let mask = s.first(count);
                let mut out = vec![9.0f32; count];
                let data = vec![4.0f32; count];
                // SAFETY: both hold `count` floats, the true lanes.
                let v = unsafe {
                    let v = s.load_masked(data.as_ptr(), mask);
                    s.store_masked(out.as_mut_ptr(), v, mask);
                    v
                };
                assert_eq!(out, data);
                let want: Vec<f32> = (0..n).map(|i| if i < count { 4.0 } else { 0.0 }).collect();
                assert_eq!(lanes(v), want);
            }
            let step = n + 3;
            let from: Vec<f32> = (0..n * step).map(|i| i as f32).collect();
            for (rows, columns) in [(n, n), (n, 1), (1, n), (n - 1, n - 1), (0, 0), (3, 2)] {
                let mut to = vec![9.0f32; n * n];
                let read = if rows == 0 { 0 } else { (rows - 1) * step + columns };
                // A slice as long as what may be read.
                let from = from[..read].to_vec();
                // SAFETY: so many rows are there, and the square is as large as it must be.
                unsafe { s.transpose(from.as_ptr(), step, [rows, columns], to.as_mut_ptr()) };
                for (i, &got) in to.iter().enumerate() {
                    let (column, row) = (i / n, i % n);
                    let want = if row < rows && column < columns { (row * step + column) as f32 } else { 0.0 };
                    assert_eq!(got, want, "row {row} of {rows}, column {column} of {columns}");
                }
            }
            let mut width = 1;
            while width <= n {
                for lane in 0..width {
                    let got = lanes(s.permute(x, s.broadcast_within(width, lane)));
                    for (l, got) in got.into_iter().enumerate() {
                        assert_eq!(got, (l - l % width + lane) as f32 - 2.5);
                    }
                }
                width *= 2;
            }
        }
    }

    #[test]
    fn operations_of_every_isa() {
        for isa in Isa::available() {
            dispatch(isa, Operations);
        }
    }

    #[test]
    fn names_round_trip() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("neon"), None);
        assert!(Isa::best().is_available());
    }
}
