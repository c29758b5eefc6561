//! The gradient of a convolution's weights:
//!
//! `d_weight[k][c][tap] += Σ_n Σ_o x[n, o * stride - padding + tap * dilation][c] * d_y[n, o][k]`
//!
//! For each tap it is a matrix (c, k) summed over all outputs: a sum of outer products. Three ways:
//!
//! | kind | for |
//! |---|---|
//! | packed | most: both factors of a block of outputs are copied to where a register tile reads them in order |
//! | in place | few channels and a single column of taps, and windows that mostly see padding: outputs that would see it are left out |
//! | within | few channels per group: a vector spans several groups |
//!
//! The outputs are cut into slabs that depend on the shapes alone. Each slab has sums of its own, `(tap, c, k)`, which are
//! added up in the order of the slabs: the number of threads cannot change a bit. Many weights have one slab, whose
//! matrix is shared out instead.

mod packed;

use std::ops::Range;

use packed::Packed;

use super::blocking::Work;
use super::sparse;
use crate::buffer::align_up;
use crate::gemm::outer::{self, Outer, Run};
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, MOST_LANES, Simd, dispatch, for_rows, slices};

/// Elements of all slabs together.
const SUMS: usize = 2 << 20;
/// Outputs that are worth a slab.
const OUTPUTS: usize = 512;
/// Slabs: tasks for that many threads, evenly.
const SLABS: usize = 16;
/// Elements of both factors that are read again and again from the second-level cache.
const CACHED: usize = 64 << 10;
/// Elements of sums that stay there.
const RESIDENT: usize = 128 << 10;
/// Outputs of a row where rows may be as long as we like.
const ROW: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Packed,
    InPlace,
    Within,
}

/// Taps whose rows of the matrix are one block of rows: those of a row of the kernel, where a pixel has few channels. In
/// channels-last memory they are neighbours, and fill a register tile that the channels alone would not.
fn merged(isa: Isa, work: &Work) -> usize {
    let Work { window, input, groups, .. } = *work;
    if window.dilation[2] == 1 && input.c / groups < 2 * isa.tile().0 { window.kernel[2] } else { 1 }
}

/// The compiled gradient.
pub(super) struct WeightGradient {
    isa: Isa,
    work: Work,
    /// Output rows: those of the map, or pieces of the one long row of a pointwise convolution.
    rows: usize,
    slabs: usize,
    /// Tasks of a slab.
    pieces: usize,
    kind: Kind,
    /// Output rows of a block that is packed.
    block: usize,
}

impl WeightGradient {
    pub(super) fn new(isa: Isa, work: Work) -> Self {
        let Work { window, input, output, groups, .. } = work;
        let rows = if work.is_row() { output.w.div_ceil(ROW) } else { output.n * output.d * output.h };
        let weights = window.taps() * input.c / groups * output.c;
        let outputs = output.n * output.spatial();
        let slabs = (outputs / OUTPUTS).min(SUMS / weights).clamp(1, SLABS).min(rows);
        let (c, k) = (input.c / groups, output.c / groups);
        let lanes = isa.lanes();
        let kind = if c == k && c < lanes && lanes.is_multiple_of(c) && output.c.is_multiple_of(lanes) {
            Kind::Within
        } else if sparse::pays(&work) || (c < isa.tile().0 && merged(isa, &work) == 1) {
            Kind::InPlace
        } else {
            Kind::Packed
        };
        let mut new = Self { isa, work, rows, slabs, pieces: 1, kind, block: 1 };
        new.pieces = (4 * work.threads).div_ceil(slabs).min(new.columns());
        // As many rows as fit, and no more than a plane has.
        while 2 * new.block <= new.plane() && new.packed_len(2 * new.block) <= CACHED {
            new.block *= 2;
        }
        new
    }

    /// Elements of the sums of a slab.
    fn matrix(&self) -> usize {
        let Work { window, input, output, groups, .. } = self.work;
        window.taps() * (input.c / groups) * output.c
    }

    pub(super) fn scratch(&self) -> usize {
        let packed = if self.kind == Kind::Packed { self.packed_len(self.block) } else { 0 };
        self.slabs * align_up(self.matrix()) + self.work.threads * packed
    }

    /// Pieces of a row of the matrix: as wide as the register tile, none of which spans groups, or a vector.
    fn columns(&self) -> usize {
        let Work { output, groups, .. } = self.work;
        if self.kind == Kind::Within {
            output.c / self.isa.lanes()
        } else {
            groups * (output.c / groups).div_ceil(self.width())
        }
    }

    fn width(&self) -> usize {
        self.isa.lanes() * self.isa.tile().1
    }

    /// Adds the gradient to `d_weight`, `(k, c / groups, taps)`.
    pub(super) fn run(&self, x: &[f32], d_y: &[f32], d_weight: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        let Work { input, output, .. } = self.work;
        assert!(x.len() == input.len() && d_y.len() == output.len() && d_weight.len() == self.matrix());
        let pitch = align_up(self.matrix());
        let (sums, packed) = scratch.split_at_mut(self.slabs * pitch);
        let shared = SharedMut::new(sums);
        let columns = self.columns();
        pool.for_each_scratch(self.slabs * self.pieces, packed, |task, packed| {
            let (slab, piece) = (task / self.pieces, task % self.pieces);
            let rows = slab * self.rows / self.slabs..(slab + 1) * self.rows / self.slabs;
            let columns = piece * columns / self.pieces..(piece + 1) * columns / self.pieces;
            let out = shared.as_mut_ptr().wrapping_add(slab * pitch);
            let slab = Slab { gradient: self, x, d_y, out, rows, columns };
            match self.kind {
                Kind::Packed => dispatch(self.isa, Packed { slab, packed }),
                Kind::InPlace | Kind::Within => dispatch(self.isa, slab),
            }
        });
        self.gather(sums, d_weight, pool);
    }

    /// Adds the sums of the slabs, in order, to the gradient.
    fn gather(&self, sums: &[f32], d_weight: &mut [f32], pool: &Pool) {
        let Work { window, input, output, groups, .. } = self.work;
        let (taps, channels) = (window.taps(), input.c / groups);
        let step = (PAIRS / taps).max(1);
        let chunks = channels.div_ceil(step);
        let d_weight = SharedMut::new(d_weight);
        pool.for_each(output.c.div_ceil(FILTERS) * chunks, |task| {
            let (first, c) = (task / chunks * FILTERS, task % chunks * step);
            let filters = first..output.c.min(first + FILTERS);
            let rows = c * taps..channels.min(c + step) * taps;
            dispatch(self.isa, Gather { gradient: self, sums, d_weight, filters, rows });
        });
    }

    /// The group and the output channels of a piece of the columns.
    fn filters(&self, column: usize) -> (usize, Range<usize>) {
        let Work { output, groups, .. } = self.work;
        let filters = output.c / groups;
        let pieces = filters.div_ceil(self.width());
        let (group, first) = (column / pieces, column % pieces * self.width());
        (group, group * filters + first..group * filters + filters.min(first + self.width()))
    }

    /// The first output of a row and their number.
    fn row(&self, row: usize) -> (usize, usize) {
        let w = self.work.output.w;
        if self.work.is_row() { (row * ROW, ROW.min(w - row * ROW)) } else { (row * w, w) }
    }

    /// The outputs of `rows` that see the input through `tap`, as runs of pixels.
    fn runs(&self, rows: Range<usize>, tap: [usize; 3], runs: &mut Vec<Run>) {
        let Work { window, input, output, .. } = self.work;
        runs.clear();
        if self.work.is_row() {
            let (start, end) = (rows.start * ROW, output.w.min(rows.end * ROW));
            runs.push(Run { a: start * input.c, b: start * output.c, length: end - start });
            return;
        }
        let columns = window.valid_outputs(2, tap[2], input.w, output.w);
        let Some(w) = (!columns.is_empty()).then(|| window.position(2, columns.start, tap[2], input.w)).flatten()
        else {
            return;
        };
        for row in rows {
            let (oh, od, n) = (row % output.h, row / output.h % output.d, row / (output.h * output.d));
            let (Some(d), Some(h)) = (window.position(0, od, tap[0], input.d), window.position(1, oh, tap[1], input.h))
            else {
                continue;
            };
            let a = (((n * input.d + d) * input.h + h) * input.w + w) * input.c;
            runs.push(Run { a, b: (row * output.w + columns.start) * output.c, length: columns.len() });
        }
    }
}

/// Output channels that are gathered together: several lines of the sums.
const FILTERS: usize = 64;
/// Pairs of an input channel and a tap that are gathered together: few enough to stay in the first-level cache.
const PAIRS: usize = 256;
/// The sums `(tap, c, k)` of all slabs, of some output channels and pairs `(c, tap)`, added to the gradient `(k, c, tap)`.
struct Gather<'a> {
    gradient: &'a WeightGradient,
    sums: &'a [f32],
    d_weight: SharedMut<'a>,
    filters: Range<usize>,
    rows: Range<usize>,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Work { window, input, output, groups, .. } = self.gradient.work;
        let (taps, channels) = (window.taps(), input.c / groups);
        let pitch = align_up(self.gradient.matrix());
        let (mut totals, mut square) = ([0.0; MOST_LANES * MOST_LANES], [0.0; MOST_LANES * MOST_LANES]);
        for k in self.filters.clone().step_by(S::LANES) {
            let filters = k..self.filters.end.min(k + S::LANES);
            for first in self.rows.clone().step_by(S::LANES) {
                let rows = first..self.rows.end.min(first + S::LANES);
                for (row, total) in rows.clone().zip(totals.chunks_exact_mut(S::LANES)) {
                    let start = (row % taps * channels + row / taps) * output.c;
                    let mut sum = s.splat(0.0);
                    for slab in self.sums.chunks_exact(pitch).take(self.gradient.slabs) {
                        sum = s.add(sum, slices::load(s, &slab[start + filters.start..start + filters.end]));
                    }
                    slices::store(s, total, sum);
                }
                // SAFETY: both have room for a square of the most lanes.
                unsafe { s.transpose(totals.as_ptr(), S::LANES, [rows.len(), filters.len()], square.as_mut_ptr()) };
                for (k, gradient) in filters.clone().zip(square.chunks_exact(S::LANES)) {
                    let start = k * channels * taps;
                    // SAFETY: these weights belong to this task.
                    let to = unsafe { self.d_weight.slice_mut(start + rows.start..start + rows.end) };
                    let sum = s.add(slices::load(s, to), slices::load(s, gradient));
                    slices::store(s, to, sum);
                }
            }
        }
    }
}

/// Some columns of the matrix, summed over the outputs of a slab.
struct Slab<'a> {
    gradient: &'a WeightGradient,
    x: &'a [f32],
    d_y: &'a [f32],
    /// The sums of the slab.
    out: *mut f32,
    rows: Range<usize>,
    /// Pieces of the columns.
    columns: Range<usize>,
}

impl Kernel for Slab<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Work { window, input, output, .. } = self.gradient.work;
        let [_, height, width] = window.kernel;
        let row = if self.gradient.work.is_row() { ROW } else { output.w };
        let step = (CACHED / (row * (input.c + output.c))).clamp(1, self.rows.len().max(1));
        let mut runs = Vec::new();
        let mut start = self.rows.start;
        while start < self.rows.end {
            let end = self.rows.end.min(start + step);
            let add = start > self.rows.start;
            for tap in 0..window.taps() {
                let position = [tap / (height * width), tap / width % height, tap % width];
                self.gradient.runs(start..end, position, &mut runs);
                for column in self.columns.clone() {
                    if self.gradient.kind == Kind::Within {
                        self.within(s, &runs, tap, column, add);
                    } else {
                        self.in_place(s, &runs, tap, column, add);
                    }
                }
            }
            start = end;
        }
    }
}

impl Slab<'_> {
    /// All channels of a group for one tap and one piece of the columns.
    #[inline(always)]
    fn in_place<S: Simd>(&self, s: S, runs: &[Run], tap: usize, column: usize, add: bool) {
        let Work { window, input, output, groups, .. } = self.gradient.work;
        let channels = input.c / groups;
        let (group, filters) = self.gradient.filters(column);
        let (k, columns) = (filters.start, filters.len());
        let tiles = channels.div_ceil(S::TILE_ROWS);
        for tile in 0..tiles {
            let c = tile * channels / tiles..(tile + 1) * channels / tiles;
            let outer = Outer {
                a: self.x.as_ptr().wrapping_add(group * channels + c.start),
                b: self.d_y.as_ptr().wrapping_add(k),
                steps: [window.stride[2] * input.c, output.c],
                runs,
                columns,
                out: self.out.wrapping_add((tap * channels + c.start) * output.c + k),
                out_stride: output.c,
                add,
            };
            // SAFETY: every pixel of the runs is inside both maps, and has these channels; each task has its own part of
            // the sums.
            unsafe { outer::run(s, &outer, c.len(), columns.div_ceil(S::LANES)) };
        }
    }

    /// All channels of the groups of one vector, for one tap.
    #[inline(always)]
    fn within<S: Simd>(&self, s: S, runs: &[Run], tap: usize, column: usize, add: bool) {
        match self.gradient.work.input.c / self.gradient.work.groups {
            1 => self.permuted::<S, 1>(s, runs, tap, column, add),
            2 => self.permuted::<S, 2>(s, runs, tap, column, add),
            4 => self.permuted::<S, 4>(s, runs, tap, column, add),
            _ => self.permuted::<S, 8>(s, runs, tap, column, add),
        }
    }

    /// With `C` channels in a group: lane `l` of sum `i` is `Σ x[channel i of the group of l] * d_y[l]`.
    #[inline(always)]
    fn permuted<S: Simd, const C: usize>(&self, s: S, runs: &[Run], tap: usize, column: usize, add: bool) {
        let Work { window, input, output, .. } = self.gradient.work;
        let first = column * S::LANES;
        let lanes: [S::I; C] = std::array::from_fn(|i| s.broadcast_within(C, i));
        // Two pixels at a time have sums of their own: a sum waits less for the one before.
        let (mut even, mut odd) = ([s.splat(0.0); C], [s.splat(0.0); C]);
        for run in runs {
            macro_rules! add {
                ($sums:ident, $pixel:expr) => {
                    // SAFETY: every pixel of the runs is inside both maps, which have whole vectors of channels.
                    let (x, d_y) = unsafe {
                        (
                            s.load(self.x.as_ptr().add(run.a + $pixel * window.stride[2] * input.c + first)),
                            s.load(self.d_y.as_ptr().add(run.b + $pixel * output.c + first)),
                        )
                    };
                    for_rows!(C, i, {
                        $sums[i] = s.fma(s.permute(x, lanes[i]), d_y, $sums[i]);
                    });
                };
            }
            for pair in 0..run.length / 2 {
                add!(even, 2 * pair);
                add!(odd, 2 * pair + 1);
            }
            if run.length % 2 == 1 {
                add!(even, run.length - 1);
            }
        }
        for i in 0..C {
            let to = self.out.wrapping_add((tap * C + i) * output.c + first);
            let sum = s.add(even[i], odd[i]);
            // SAFETY: each task has its own part of the sums.
            unsafe { s.store(to, if add { s.add(s.load(to), sum) } else { sum }) };
        }
    }
}
