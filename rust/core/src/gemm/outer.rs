//! The register tile of sums of outer products: `out[i][j] = Σ_pixel a[pixel][i] * b[pixel][j]`.
//!
//! This is the gradient of a convolution's weights, with input channels as rows, output channels as columns and the
//! pixels of the image as the reduction: both factors lie in memory as the network left them, nothing is packed. The
//! pixels are given as runs of equal steps, such as the rows of an image.

use crate::simd::{Kernel, Simd, for_rows, opaque, outlined};

/// Pixels that follow each other at equal steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where the first one is in A and in B.
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// How many.
    pub(crate) length: usize,
}

/// The arguments of one tile.
#[derive(Clone, Copy)]
pub(crate) struct Outer<'a> {
    /// The first row: rows are neighbours.
    pub(crate) a: *const f32,
    /// The first column: columns are neighbours.
    pub(crate) b: *const f32,
    /// Elements between pixels of A and of B.
    pub(crate) steps: [usize; 2],
    pub(crate) runs: &'a [Run],
    /// Columns that exist; the vectors may be wider.
    pub(crate) columns: usize,
    pub(crate) out: *mut f32,
    /// Elements between rows of the output.
    pub(crate) out_stride: usize,
    /// Whether the sums are added to what is there.
    pub(crate) add: bool,
}

/// Computes a tile of `rows` rows and `vectors` vectors.
///
/// # Safety
/// `1 <= rows <= TILE_ROWS`, `1 <= vectors <= TILE_VECTORS`, `columns` is more than `vectors - 1` vectors and at most
/// `vectors`. For every pixel `rows` floats of A and `columns` of B are readable; nobody else touches the output.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd>(s: S, outer: &Outer<'_>, rows: usize, vectors: usize) {
    outlined(s, Sized { outer, rows, vectors });
}

/// A tile that [`run`]'s caller vouches for, with its size.
struct Sized<'a> {
    outer: &'a Outer<'a>,
    rows: usize,
    vectors: usize,
}

impl Kernel for Sized<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { outer, rows, vectors } = self;
        macro_rules! choose {
            ($($m:literal)*) => {
                match (rows, vectors) {
                    // SAFETY: the contract of `run` is that of `compute` for these numbers.
                    $(($m, 1) if $m <= S::TILE_ROWS => unsafe { compute::<S, $m, 1>(s, outer) },)*
                    // SAFETY: as above.
                    $(($m, 2) if $m <= S::TILE_ROWS && S::TILE_VECTORS >= 2 => unsafe { compute::<S, $m, 2>(s, outer) },)*
                    _ => unreachable!("tile of {rows} rows and {vectors} vectors"),
                }
            };
        }
        choose!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}

/// # Safety
/// See [`run`].
#[inline(always)]
unsafe fn compute<S: Simd, const M: usize, const N: usize>(s: S, outer: &Outer<'_>) {
    let lanes = S::LANES;
    let last = s.first(outer.columns - (N - 1) * lanes);
    let full = outer.columns == N * lanes;
    let [a_step, b_step] = outer.steps;
    let mut sums = [[s.splat(0.0); N]; M];
    macro_rules! pixels {
        ($last:expr) => {
            for run in outer.runs {
                let mut a = opaque(outer.a.wrapping_add(run.a));
                let mut b = opaque(outer.b.wrapping_add(run.b));
                for _ in 0..run.length {
                    let mut w = [s.splat(0.0); N];
                    for v in 0..N {
                        let from = b.wrapping_add(v * lanes);
                        // SAFETY: the columns that exist, by the contract of `run`.
                        w[v] = unsafe { if v + 1 == N { $last(from) } else { s.load(from) } };
                    }
                    for_rows!(M, i, {
                        // SAFETY: the rows of this pixel, by the contract of `run`.
                        let x = s.splat(unsafe { *a.add(i) });
                        for v in 0..N {
                            sums[i][v] = s.fma(x, w[v], sums[i][v]);
                        }
                    });
                    a = opaque(a.wrapping_add(a_step));
                    b = b.wrapping_add(b_step);
                }
            }
        };
    }
    if full {
        pixels!(|from| s.load(from));
    } else {
        pixels!(|from| s.load_masked(from, last));
    }
    for_rows!(M, i, {
        for v in 0..N {
            let to = outer.out.wrapping_add(i * outer.out_stride + v * lanes);
            let partial = v + 1 == N && !full;
            // SAFETY: the mask ends with the columns that exist, by the contract of `run`.
            unsafe {
                let mut sum = sums[i][v];
                if outer.add {
                    sum = s.add(if partial { s.load_masked(to, last) } else { s.load(to) }, sum);
                }
                if partial { s.store_masked(to, sum, last) } else { s.store(to, sum) }
            }
        }
    });
}
