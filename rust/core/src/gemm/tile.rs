//! The register tile: up to `TILE_ROWS` rows (pixels) times `TILE_VECTORS` vectors of columns (output channels).
//!
//! `out[i][j] = finish(bias[j] + Σ_segments Σ_r a[segment][i][r] * b[segment][r][j])`: a matrix product whose reduction is
//! cut into segments, each of which starts somewhere else in memory. A row of A is where a pixel's window starts, a
//! segment is a run of taps that are neighbours in memory. Each output is one chain of fused multiply-adds in the
//! order of the segments: its bits do not depend on the tile that it is computed in.

use crate::buffer::LINE;
use crate::simd::{Kernel, Simd, for_rows, opaque, outlined};

/// A contiguous stretch of the reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it starts in A, counted from the start of a row.
    pub(crate) a: isize,
    /// The row of B where it starts.
    pub(crate) b: usize,
    /// Its length.
    pub(crate) length: usize,
}

/// Rows are addressed in four groups; the rows of a group are `row_stride` apart. This lets a tile span up to four
/// rows of an image, and keeps the addresses in few registers.
pub(crate) const GROUPS: usize = 4;

/// How `rows` rows are dealt to the groups: halves, then halves of those.
pub(crate) const fn group_sizes(rows: usize) -> [usize; GROUPS] {
    let (first, second) = (rows.div_ceil(2), rows / 2);
    [first.div_ceil(2), first / 2, second.div_ceil(2), second / 2]
}

/// The group of a row and its place in the group.
const fn place(rows: usize, row: usize) -> (usize, usize) {
    let sizes = group_sizes(rows);
    let (mut group, mut rest) = (0, row);
    while rest >= sizes[group] {
        rest -= sizes[group];
        group += 1;
    }
    (group, rest)
}

/// What the tile does with its sums before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stages {
    /// The sums start from `out` (an earlier block of the reduction wrote it), not from the bias.
    pub(crate) resume: bool,
    /// More blocks follow: scaling, residual and activation wait.
    pub(crate) suspend: bool,
}

/// Memory to be prefetched: from `start`, any address is allowed, `step` floats (up to [`Ahead::MOST`]) for every four
/// steps of the reduction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) start: *const f32,
    pub(crate) step: usize,
}

impl Ahead {
    /// As much as the widest panel has in four steps.
    pub(crate) const MOST: usize = Self::WIDE * LINE;
    /// Lines that are asked for: in tiles of all sizes; in the largest one where `step` is a line at most, as it is where many
    /// tiles share a panel; and in that one where it is alone with a panel. Each costs time, and deciding about each inside
    /// the tile would make its sums spill.
    const LINES: usize = 4;
    const NARROW: usize = 1;
    const WIDE: usize = 8;
}

/// The residual of the tile that comes next, prefetched row by row: from `start` to `last`, any address is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub(crate) start: *const f32,
    pub(crate) last: *const f32,
}

/// A factor and a summand for each column, laid out as the bias, for what the sums are before the residual is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling<'a> {
    pub(crate) factor: &'a [f32],
    pub(crate) shift: &'a [f32],
}

impl Scaling<'_> {
    /// That of the columns from `column` on.
    #[inline(always)]
    pub(crate) fn at(self, column: usize) -> Self {
        Self { factor: &self.factor[column..], shift: &self.shift[column..] }
    }

    /// That of sample `sample`, where `factor` has as many for each as there are summands.
    pub(crate) fn of_sample(self, sample: usize) -> Self {
        let length = self.shift.len();
        Self { factor: &self.factor[sample * length..(sample + 1) * length], ..self }
    }
}

/// The arguments of one tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Where each group of rows starts in A; may lie outside where the segments lead back inside.
    pub(crate) a: [*const f32; GROUPS],
    /// Elements between rows of a group.
    pub(crate) row_stride: usize,
    /// The packed panel.
    pub(crate) b: *const f32,
    pub(crate) segments: &'a [Segment],
    /// The first row of the output; the others follow every `out_stride`.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    /// Columns of the output that exist; the panel may be wider.
    pub(crate) columns: usize,
    /// One per column of the panel.
    pub(crate) bias: *const f32,
    /// From the panel's first column on.
    pub(crate) scaling: Option<Scaling<'a>>,
    /// Added before the activation, laid out as the output; or null. It may be the output, unless the stages resume or suspend.
    pub(crate) residual: *const f32,
    pub(crate) relu: bool,
    /// What will be needed soon, prefetched while the tile is computed.
    pub(crate) ahead: Ahead,
    /// Its rows follow every `out_stride`.
    pub(crate) next: Option<Next>,
    pub(crate) stages: Stages,
}

/// Computes a tile of `rows` rows and `vectors` vectors.
///
/// # Safety
/// `1 <= rows <= TILE_ROWS`, `1 <= vectors <= TILE_VECTORS`, `columns` is more than `vectors - 1` vectors and at most
/// `vectors`. For every row and segment, `length` floats at its place in A and the rows of B are readable; the panel
/// is `vectors` vectors wide; `bias` and the two slices of the scaling are at least as long. The output may be written by
/// nobody else, `residual` has its layout; where it is the output, the reduction is one block.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd>(s: S, tile: &Tile<'_>, rows: usize, vectors: usize) {
    outlined(s, SizedTile { tile, rows, vectors });
}

/// A tile that [`run`]'s caller vouches for, with its size.
struct SizedTile<'a> {
    tile: &'a Tile<'a>,
    rows: usize,
    vectors: usize,
}

impl Kernel for SizedTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tile, rows, vectors } = self;
        let Ahead { step, .. } = tile.ahead;
        macro_rules! choose {
            ($($m:literal)*) => {
                match (rows, vectors) {
                    // SAFETY: as below.
                    (14, 2) if S::TILE_ROWS == 14 => unsafe {
                        match (step > Ahead::LINES * LINE, step > Ahead::NARROW * LINE, tile.next.is_some()) {
                            (true, _, false) => compute::<S, 14, 2, { Ahead::WIDE }, false>(s, tile),
                            (true, _, true) => compute::<S, 14, 2, { Ahead::WIDE }, true>(s, tile),
                            (_, true, false) => compute::<S, 14, 2, { Ahead::LINES }, false>(s, tile),
                            (_, true, true) => compute::<S, 14, 2, { Ahead::LINES }, true>(s, tile),
                            (.., false) => compute::<S, 14, 2, { Ahead::NARROW }, false>(s, tile),
                            (.., true) => compute::<S, 14, 2, { Ahead::NARROW }, true>(s, tile),
                        }
                    },
                    // SAFETY: the contract of `run` is that of `compute` for these numbers.
                    $(($m, 1) if $m <= S::TILE_ROWS => unsafe {
                        compute::<S, $m, 1, { Ahead::LINES }, true>(s, tile)
                    },)*
                    // SAFETY: as above.
                    $(($m, 2) if $m <= S::TILE_ROWS && S::TILE_VECTORS >= 2 => unsafe {
                        compute::<S, $m, 2, { Ahead::LINES }, true>(s, tile)
                    },)*
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
unsafe fn compute<S: Simd, const M: usize, const N: usize, const LINES: usize, const NEXT: bool>(
    s: S,
    tile: &Tile<'_>,
) {
    let lanes = S::LANES;
    let last = s.first(tile.columns - (N - 1) * lanes);
    let full = tile.columns == N * lanes;
    // SAFETY (all blocks of this function): see the contract of `run`; masks cover the columns that exist.
    let mut sums = [[s.splat(0.0); N]; M];
    for_rows!(M, i, {
        for v in 0..N {
            // SAFETY: as above.
            sums[i][v] = unsafe {
                if !tile.stages.resume {
                    s.load(tile.bias.add(v * lanes))
                } else {
                    let from = tile.out.add(i * tile.out_stride + v * lanes);
                    if v + 1 == N && !full { s.load_masked(from, last) } else { s.load(from) }
                }
            };
        }
    });
    let stride = tile.row_stride;
    let Ahead { start: mut ahead, step: ahead_step } = tile.ahead;
    let nothing = Next { start: ahead, last: ahead };
    let Next { start: mut next, last: next_last } = tile.next.unwrap_or(nothing);
    for segment in tile.segments {
        // SAFETY: as above.
        unsafe {
            let mut a = tile.a.map(|a| opaque(a.wrapping_offset(segment.a)));
            let mut b = tile.b.add(segment.b * N * lanes);
            let mut left = segment.length;
            macro_rules! step {
                ($r:literal) => {
                    let mut w = [s.splat(0.0); N];
                    for v in 0..N {
                        w[v] = s.load(b.add(($r * N + v) * lanes));
                    }
                    for_rows!(M, i, {
                        let (group, index) = place(M, i);
                        let x = s.splat(*a[group].add(index * stride + $r));
                        for v in 0..N {
                            sums[i][v] = s.fma(x, w[v], sums[i][v]);
                        }
                    });
                };
            }
            // A step, and its share of the lines that four of them ask for: all at once they would keep loads waiting.
            macro_rules! step_asking {
                ($r:literal) => {
                    step!($r);
                    let mut line = $r;
                    while line < LINES {
                        s.prefetch_second_level(ahead.wrapping_add(line * LINE));
                        line += 4;
                    }
                };
            }
            while left >= 4 {
                step_asking!(0);
                step_asking!(1);
                step_asking!(2);
                step_asking!(3);
                a = a.map(|a| opaque(a.add(4)));
                b = b.add(4 * N * lanes);
                ahead = ahead.wrapping_add(ahead_step);
                if NEXT {
                    for v in 0..N {
                        s.prefetch(next.wrapping_add(v * lanes));
                    }
                    next = next.wrapping_add(tile.out_stride).min(next_last);
                }
                left -= 4;
            }
            while left > 0 {
                step!(0);
                a = a.map(|a| opaque(a.add(1)));
                b = b.add(N * lanes);
                left -= 1;
            }
        }
    }
    if !tile.stages.suspend {
        if let Some(Scaling { factor: factors, shift: shifts }) = tile.scaling {
            let mut factor = [s.splat(0.0); N];
            let mut shift = factor;
            for v in 0..N {
                // SAFETY: as above.
                (factor[v], shift[v]) =
                    unsafe { (s.load(factors.as_ptr().add(v * lanes)), s.load(shifts.as_ptr().add(v * lanes))) };
            }
            for_rows!(M, i, {
                for v in 0..N {
                    sums[i][v] = s.fma(sums[i][v], factor[v], shift[v]);
                }
            });
        }
        if !tile.residual.is_null() {
            for_rows!(M, i, {
                for v in 0..N {
                    // SAFETY: as above.
                    let r = unsafe {
                        let from = tile.residual.add(i * tile.out_stride + v * lanes);
                        if v + 1 == N && !full { s.load_masked(from, last) } else { s.load(from) }
                    };
                    sums[i][v] = s.add(sums[i][v], r);
                }
            });
        }
        if tile.relu {
            let zero = s.splat(0.0);
            for_rows!(M, i, {
                for v in 0..N {
                    sums[i][v] = s.max(zero, sums[i][v]);
                }
            });
        }
    }
    for_rows!(M, i, {
        for v in 0..N {
            // SAFETY: as above.
            unsafe {
                let to = tile.out.add(i * tile.out_stride + v * lanes);
                if v + 1 == N && !full { s.store_masked(to, sums[i][v], last) } else { s.store(to, sums[i][v]) }
            }
        }
    });
}
