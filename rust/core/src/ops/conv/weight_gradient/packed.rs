//! Sums of outer products from copies: both factors of a block of outputs, in the order in which a register tile reads them.
//!
//! In channels-last maps of many channels the pixels of a tile's rows are far apart, often by a power of two, where they
//! share few sets of a cache and hardly a line is used twice.

use std::ops::Range;

use super::{RESIDENT, ROW, Slab, WeightGradient, merged};
use crate::buffer::align_up;
use crate::gemm::outer::{self, Outer, Run};
use crate::ops::conv::blocking::Work;
use crate::simd::{Kernel, Simd};

impl WeightGradient {
    /// Rows of which a block can consist.
    pub(super) fn plane(&self) -> usize {
        if self.work.is_row() { 1 } else { self.work.output.h }
    }

    /// The width of a row of outputs, and of the inputs that it sees.
    fn widths(&self) -> [usize; 2] {
        let Work { window, output, .. } = self.work;
        let outputs = if self.work.is_row() { ROW.min(output.w) } else { output.w };
        [outputs, (outputs - 1) * window.stride[2] + window.extent(2)]
    }

    /// Input rows that `rows` outputs see through all taps of a plane.
    fn input_rows(&self, rows: usize) -> usize {
        (rows - 1) * self.work.window.stride[1] + self.work.window.extent(1)
    }

    /// Channels that are neighbours in a packed block, those of a register tile, and how many it takes for those of a group.
    /// All of them where the taps of a row are merged.
    fn tiles(&self) -> [usize; 2] {
        let channels = self.work.input.c / self.work.groups;
        if self.merged() > 1 {
            return [channels, 1];
        }
        let tiles = channels.div_ceil(self.isa.tile().0);
        [channels.div_ceil(tiles), tiles]
    }

    /// See [`merged`].
    fn merged(&self) -> usize {
        merged(self.isa, &self.work)
    }

    /// Elements of a packed block: inputs `(tile, kd, row, column, c)` and outputs `(row, column, k)`.
    pub(super) fn packed_len(&self, rows: usize) -> usize {
        let ([outputs, inputs], [height, tiles]) = (self.widths(), self.tiles());
        let depth = self.work.window.kernel[0];
        align_up(tiles * height * depth * self.input_rows(rows) * inputs) + align_up(self.width() * rows * outputs)
    }

    /// The outputs of `rows` of one plane, packed, and the inputs that they see through `tap`.
    fn packed_runs(&self, rows: Range<usize>, tap: usize, outputs: usize, inputs: usize, runs: &mut Vec<Run>) {
        let Work { window, output, .. } = self.work;
        let [_, height, width] = window.kernel;
        let (kd, kh, kw) = (tap / (height * width), tap / width % height, tap % width);
        runs.clear();
        if !self.work.is_row() {
            let (od, d) = (rows.start / output.h % output.d, self.work.input.d);
            if window.position(0, od, kd, d).is_none() {
                return;
            }
        }
        let planes = self.input_rows(rows.len());
        let (row, vectors) = (self.tiles()[0], outputs);
        for (index, output) in rows.enumerate() {
            let input = (kd * planes + index * window.stride[1] + kh * window.dilation[1]) * inputs;
            let a = (input + kw * window.dilation[2]) * row;
            runs.push(Run { a, b: index * vectors * self.width(), length: self.row(output).1 });
        }
    }
}

/// As [`Slab`], with copies of both factors in order.
pub(super) struct Packed<'a> {
    pub(super) slab: Slab<'a>,
    pub(super) packed: &'a mut [f32],
}

impl Kernel for Packed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { slab, packed } = self;
        let gradient = slab.gradient;
        let ([outputs, inputs], [height, tiles]) = (gradient.widths(), gradient.tiles());
        let depth = gradient.work.window.kernel[0];
        let a = align_up(tiles * height * depth * gradient.input_rows(gradient.block) * inputs);
        let (a, b) = packed.split_at_mut(a);
        let mut runs = Vec::new();
        // Sums that stay in the second-level cache while all blocks pass.
        let column = gradient.matrix() / gradient.work.output.c * gradient.width();
        let step = (RESIDENT / column).max(1);
        for first in slab.columns.clone().step_by(step) {
            let columns = first..slab.columns.end.min(first + step);
            let mut start = slab.rows.start;
            while start < slab.rows.end {
                // A block is a part of one plane.
                let plane = gradient.plane();
                let end = slab.rows.end.min(start + gradient.block).min((start / plane + 1) * plane);
                let mut group = usize::MAX;
                for column in columns.clone() {
                    let (next, filters) = gradient.filters(column);
                    if next != group {
                        group = next;
                        slab.pack_inputs(s, start..end, group, a);
                    }
                    slab.pack_outputs(s, start..end, filters.clone(), b);
                    let add = start > slab.rows.start;
                    for tap in (0..gradient.work.window.taps()).step_by(gradient.merged()) {
                        gradient.packed_runs(start..end, tap, outputs, inputs, &mut runs);
                        slab.packed(s, &runs, [a, b], (end - start, tap), (filters.clone(), add));
                    }
                }
                start = end;
            }
        }
    }
}

impl Slab<'_> {
    /// Copies the inputs that the outputs of `rows` see, of one group: `(tile, kd, row, column, c)`, zeros in the padding.
    #[inline(always)]
    fn pack_inputs<S: Simd>(&self, s: S, rows: Range<usize>, group: usize, packed: &mut [f32]) {
        let Work { window, input, output, groups, .. } = self.gradient.work;
        let ([_, columns], [height, tiles]) = (self.gradient.widths(), self.gradient.tiles());
        let channels = input.c / groups;
        let planes = self.gradient.input_rows(rows.len());
        let line = columns * height;
        for tile in 0..tiles {
            let c = tile * height..channels.min((tile + 1) * height);
            for (index, row) in packed[tile * window.kernel[0] * planes * line..][..window.kernel[0] * planes * line]
                .chunks_exact_mut(line)
                .enumerate()
            {
                let (kd, h) = (index / planes, index % planes);
                let (from, left, length) = if self.gradient.work.is_row() {
                    let (start, length) = self.gradient.row(rows.start);
                    (Some(start), 0, length)
                } else {
                    let (oh, od, n) =
                        (rows.start % output.h, rows.start / output.h % output.d, rows.start / (output.h * output.d));
                    let d = window.position(0, od, kd, input.d);
                    let h = (oh * window.stride[1] + h).checked_sub(window.padding[1][0]).filter(|&h| h < input.h);
                    let row = d.zip(h).map(|(d, h)| ((n * input.d + d) * input.h + h) * input.w);
                    let left = window.padding[2][0].min(columns);
                    (row, left, input.w.min(columns - left))
                };
                let Some(from) = from else {
                    row.fill(0.0);
                    continue;
                };
                row[..left * height].fill(0.0);
                row[(left + length) * height..].fill(0.0);
                let from = &self.x[from * input.c + group * channels + c.start..];
                if height == input.c {
                    row[left * height..][..length * height].copy_from_slice(&from[..length * height]);
                    continue;
                }
                let mask = s.first(c.len());
                for (pixel, to) in row[left * height..][..length * height].chunks_exact_mut(height).enumerate() {
                    // SAFETY: the channels of the tile are in both.
                    unsafe { copy(s, from.as_ptr().add(pixel * input.c), to.as_mut_ptr(), c.len(), mask) };
                }
            }
        }
    }

    /// Copies the outputs of `rows`, some channels of them, to whole vectors: `(row, column, k)`.
    #[inline(always)]
    fn pack_outputs<S: Simd>(&self, s: S, rows: Range<usize>, filters: Range<usize>, packed: &mut [f32]) {
        let ([outputs, _], width) = (self.gradient.widths(), self.gradient.width());
        let c = self.gradient.work.output.c;
        for (index, row) in rows.enumerate() {
            let (start, length) = self.gradient.row(row);
            let from = &self.d_y[start * c + filters.start..];
            for (pixel, to) in packed[index * outputs * width..][..length * width].chunks_exact_mut(width).enumerate() {
                for v in 0..filters.len().div_ceil(S::LANES) {
                    let tail = s.first(filters.len() - v * S::LANES);
                    // SAFETY: the mask ends with the channels.
                    unsafe {
                        let value = s.load_masked(from.as_ptr().add(pixel * c + v * S::LANES), tail);
                        s.store(to.as_mut_ptr().add(v * S::LANES), value);
                    }
                }
            }
        }
    }

    /// All channels of a group for one tap, or for all that are merged with it, and some output channels, from packed factors.
    #[inline(always)]
    fn packed<S: Simd>(
        &self,
        s: S,
        runs: &[Run],
        [a, b]: [&[f32]; 2],
        (rows, tap): (usize, usize),
        (filters, add): (Range<usize>, bool),
    ) {
        let Work { window, input, output, groups, .. } = self.gradient.work;
        let ([_, columns], [height, _]) = (self.gradient.widths(), self.gradient.tiles());
        let (channels, merged) = (input.c / groups, self.gradient.merged());
        let tile_len = window.kernel[0] * self.gradient.input_rows(rows) * columns * height;
        let total = merged * channels;
        let tile = total.div_ceil(total.div_ceil(S::TILE_ROWS));
        for first in (0..total).step_by(tile) {
            let start = if merged > 1 { first } else { first / tile * tile_len };
            let outer = Outer {
                a: a[start..].as_ptr(),
                b: b.as_ptr(),
                steps: [window.stride[2] * height, self.gradient.width()],
                runs,
                columns: filters.len(),
                out: self.out.wrapping_add((tap * channels + first) * output.c + filters.start),
                out_stride: output.c,
                add,
            };
            // SAFETY: the runs are those of the packed block; each task has its own part of the sums.
            unsafe { outer::run(s, &outer, tile.min(total - first), filters.len().div_ceil(S::LANES)) };
        }
    }
}

/// Copies `count` elements, up to the rows of a tile; `mask` holds them if they fit a vector.
///
/// # Safety
/// They must be readable and writable.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, from: *const f32, to: *mut f32, count: usize, mask: S::M) {
    // SAFETY: by this function's contract.
    unsafe {
        if count <= S::LANES {
            s.store_masked(to, s.load_masked(from, mask), mask);
        } else {
            std::ptr::copy_nonoverlapping(from, to, count);
        }
    }
}
