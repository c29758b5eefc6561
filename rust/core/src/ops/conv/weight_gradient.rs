//! The gradient of a convolution's weights:
//!
//! `d_weight[k][c][tap] += Σ_n Σ_o x[n, o * stride - padding + tap * dilation][c] * d_y[n, o][k]`
//!
//! For each tap it is a matrix (c, k) summed over all outputs that see the input through that tap: a sum of outer
//! products. Neither factor is packed; padding costs nothing, because outputs that would see it are left out.
//!
//! The outputs are cut into slabs that depend on the shapes alone. Each slab has sums of its own, `(tap, c, k)`, which are
//! added up in the order of the slabs: the number of threads cannot change a bit. Many weights have one slab, whose
//! matrix is shared out instead.

use std::ops::Range;

use super::blocking::Work;
use crate::buffer::align_up;
use crate::gemm::outer::{self, Outer, Run};
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, Simd, dispatch, for_rows};

/// Elements of all slabs together.
const SUMS: usize = 2 << 20;
/// Outputs that are worth a slab.
const OUTPUTS: usize = 2048;
/// Slabs: tasks for that many threads, evenly.
const SLABS: usize = 32;
/// Elements of both factors that are read again and again from the second-level cache.
const CACHED: usize = 64 << 10;
/// Outputs of a row where rows may be as long as we like.
const ROW: usize = 256;

/// The compiled gradient.
pub(super) struct WeightGradient {
    isa: Isa,
    work: Work,
    /// Output rows: those of the map, or pieces of the one long row of a pointwise convolution.
    rows: usize,
    slabs: usize,
    /// Tasks of a slab.
    pieces: usize,
    /// Whether a vector of channels spans several groups.
    within: bool,
}

impl WeightGradient {
    pub(super) fn new(isa: Isa, work: Work) -> Self {
        let Work { window, input, output, groups, .. } = work;
        let rows = if work.is_row() { output.w.div_ceil(ROW) } else { output.n * output.d * output.h };
        let weights = window.taps() * input.c / groups * output.c;
        let outputs = output.n * output.spatial();
        let slabs = (outputs / OUTPUTS).min(SUMS / weights).clamp(1, SLABS).min(rows);
        let (c, k) = (input.c / groups, output.c / groups);
        let within = c == k && c < isa.lanes() && isa.lanes().is_multiple_of(c) && output.c.is_multiple_of(isa.lanes());
        let mut new = Self { isa, work, rows, slabs, pieces: 1, within };
        new.pieces = SLABS.div_ceil(slabs).min(new.columns() * window.taps());
        new
    }

    /// Elements of the sums of a slab.
    fn matrix(&self) -> usize {
        let Work { window, input, output, groups, .. } = self.work;
        window.taps() * (input.c / groups) * output.c
    }

    pub(super) fn scratch(&self) -> usize {
        self.slabs * align_up(self.matrix())
    }

    /// Pieces of a row of the matrix: as wide as the register tile, none of which spans groups, or a vector.
    fn columns(&self) -> usize {
        let Work { output, groups, .. } = self.work;
        if self.within { output.c / self.isa.lanes() } else { groups * (output.c / groups).div_ceil(self.width()) }
    }

    fn width(&self) -> usize {
        self.isa.lanes() * self.isa.tile().1
    }

    /// Adds the gradient to `d_weight`, `(k, c / groups, taps)`.
    pub(super) fn run(&self, x: &[f32], d_y: &[f32], d_weight: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        let Work { input, output, .. } = self.work;
        assert!(x.len() == input.len() && d_y.len() == output.len() && d_weight.len() == self.matrix());
        let pitch = align_up(self.matrix());
        let sums = SharedMut::new(&mut scratch[..self.slabs * pitch]);
        let parts = self.columns() * self.work.window.taps();
        pool.for_each(self.slabs * self.pieces, |task| {
            let (slab, piece) = (task / self.pieces, task % self.pieces);
            let rows = slab * self.rows / self.slabs..(slab + 1) * self.rows / self.slabs;
            let parts = piece * parts / self.pieces..(piece + 1) * parts / self.pieces;
            let out = sums.as_mut_ptr().wrapping_add(slab * pitch);
            dispatch(self.isa, Slab { gradient: self, x, d_y, out, rows, parts });
        });
        self.gather(scratch, d_weight, pool);
    }

    /// Adds the sums of the slabs, in order, to the gradient.
    fn gather(&self, sums: &[f32], d_weight: &mut [f32], pool: &Pool) {
        /// Output channels of a task: a line of the sums.
        const FILTERS: usize = 16;
        let Work { window, input, output, groups, .. } = self.work;
        let (taps, channels, k) = (window.taps(), input.c / groups, output.c);
        let pitch = align_up(self.matrix());
        pool.for_each_chunk(d_weight, FILTERS * channels * taps, |task, d_weight| {
            let filters = d_weight.len() / (channels * taps);
            for c in 0..channels {
                for tap in 0..taps {
                    let mut total = [0.0; FILTERS];
                    for slab in sums.chunks_exact(pitch).take(self.slabs) {
                        let row = &slab[(tap * channels + c) * k + task * FILTERS..][..filters];
                        total.iter_mut().zip(row).for_each(|(total, sum)| *total += sum);
                    }
                    for (filter, total) in total[..filters].iter().enumerate() {
                        d_weight[(filter * channels + c) * taps + tap] += total;
                    }
                }
            }
        });
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

/// Some parts of the matrix, summed over the outputs of a slab.
struct Slab<'a> {
    gradient: &'a WeightGradient,
    x: &'a [f32],
    d_y: &'a [f32],
    /// The sums of the slab.
    out: *mut f32,
    rows: Range<usize>,
    /// Counted tap by tap in each piece of the columns.
    parts: Range<usize>,
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
            for part in self.parts.clone() {
                let (column, tap) = (part / window.taps(), part % window.taps());
                let position = [tap / (height * width), tap / width % height, tap % width];
                self.gradient.runs(start..end, position, &mut runs);
                if self.gradient.within {
                    self.within(s, &runs, tap, column, add);
                } else {
                    self.outer(s, &runs, tap, column, add);
                }
            }
            start = end;
        }
    }
}

impl Slab<'_> {
    /// All channels of a group for one tap and one piece of the columns.
    #[inline(always)]
    fn outer<S: Simd>(&self, s: S, runs: &[Run], tap: usize, column: usize, add: bool) {
        let Work { window, input, output, groups, .. } = self.gradient.work;
        let (channels, filters) = (input.c / groups, output.c / groups);
        let pieces = filters.div_ceil(self.gradient.width());
        let (group, first) = (column / pieces, column % pieces * self.gradient.width());
        let columns = self.gradient.width().min(filters - first);
        let k = group * filters + first;
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
