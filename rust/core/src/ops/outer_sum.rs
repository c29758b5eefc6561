//! Sums of outer products, `out[i][j] = Σ_p a[p][i] * b[p][j]`: the gradient of whatever multiplied a matrix, with both
//! factors as they lie in memory.
//!
//! A task owns a block of the output and goes through the points in order, a run at a time: short runs stay in the cache,
//! and rounding errors grow with the sum of the two lengths, not with their product.

use std::ops::Range;

use crate::gemm::outer::{self, Outer, Run};
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Points of a run.
const RUN: usize = 64;

/// The factors: maps of `rows` and of `columns` channels with the same points.
#[derive(Clone, Copy)]
pub(super) struct OuterSum<'a> {
    pub(super) isa: Isa,
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl OuterSum<'_> {
    /// Writes the sums to `out`, or adds them to what is there.
    pub(super) fn run(self, out: &mut [f32], add: bool, pool: &Pool) {
        /// Rows and columns of a task.
        const BLOCK: [usize; 2] = [56, 256];
        let Self { isa, a, b, rows, columns } = self;
        let points = a.len() / rows;
        assert!(points > 0 && a.len() == points * rows && b.len() == points * columns && out.len() == rows * columns);
        let across = columns.div_ceil(BLOCK[1]);
        let out = SharedMut::new(out);
        pool.for_each(rows.div_ceil(BLOCK[0]) * across, |task| {
            let (row, column) = (task / across * BLOCK[0], task % across * BLOCK[1]);
            let (last_row, last_column) = (rows.min(row + BLOCK[0]), columns.min(column + BLOCK[1]));
            dispatch(isa, Block { sum: self, out, add, rows: row..last_row, columns: column..last_column });
        });
    }
}

/// A part of the output that belongs to one task.
struct Block<'a> {
    sum: OuterSum<'a>,
    out: SharedMut<'a>,
    add: bool,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OuterSum { a, b, rows, columns, .. } = self.sum;
        let width = S::TILE_VECTORS * S::LANES;
        let points = a.len() / rows;
        for start in (0..points).step_by(RUN) {
            let runs = [Run { a: start * rows, b: start * columns, length: RUN.min(points - start) }];
            for column in self.columns.clone().step_by(width) {
                let count = width.min(self.columns.end - column);
                for row in self.rows.clone().step_by(S::TILE_ROWS) {
                    let outer = Outer {
                        a: a.as_ptr().wrapping_add(row),
                        b: b.as_ptr().wrapping_add(column),
                        steps: [rows, columns],
                        runs: &runs,
                        columns: count,
                        out: self.out.as_mut_ptr().wrapping_add(row * columns + column),
                        out_stride: columns,
                        add: self.add || start > 0,
                    };
                    let height = S::TILE_ROWS.min(self.rows.end - row);
                    // SAFETY: both maps have these points and channels, the output these rows and columns, which belong
                    // to this task.
                    unsafe { outer::run(s, &outer, height, count.div_ceil(S::LANES)) };
                }
            }
        }
    }
}
