//! A padded copy of the input: windows that reach over the border read zeros instead of being cut.
//!
//! The copy is made plane by plane (a plane is one depth position), because in 3D neighbouring outputs share planes.

use std::ops::Range;

use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::window::Window;

/// A box of the padded input in memory: `[plane][row][column][channel]`. Positions count from the padding's corner.
/// Either all channels, or those from `first_channel`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// Planes in memory; plane `p` of the padded input is in slot `p % slots`.
    pub(super) slots: usize,
    /// Rows of the padded input, from `first_row`.
    pub(super) rows: usize,
    pub(super) first_row: usize,
    /// Columns of the padded input, all that any window sees.
    pub(super) columns: usize,
    pub(super) channels: usize,
    pub(super) first_channel: usize,
}

impl Stage {
    /// Elements between rows.
    pub(super) fn row_stride(&self) -> usize {
        self.columns * self.channels
    }

    /// Elements between planes.
    pub(super) fn plane_stride(&self) -> usize {
        self.rows * self.row_stride()
    }

    /// Elements in all.
    pub(super) fn len(&self) -> usize {
        self.slots * self.plane_stride()
    }

    /// Copies `plane` of the padded input from one sample of shape `shape` to its slot.
    ///
    /// Rows in the padding become zeros. Every element of the slot is written.
    pub(super) fn fill(&self, stage: &mut [f32], sample: &[f32], shape: &Shape, window: &Window, plane: usize) {
        self.fill_with(stage, sample, shape, window, plane, |from, row| {
            let left = window.padding[2][0].min(self.columns);
            let inside = shape.w.min(self.columns - left) * self.channels;
            let (left, rest) = row.split_at_mut(left * self.channels);
            let (middle, right) = rest.split_at_mut(inside);
            left.fill(0.0);
            middle.copy_from_slice(&from[..inside]);
            right.fill(0.0);
        });
    }

    /// As [`Stage::fill`], but the rows are cut into blocks of `LANES` channels: `[plane][row][block][column][lane]`.
    pub(super) fn fill_lanes(
        &self,
        isa: Isa,
        stage: &mut [f32],
        sample: &[f32],
        shape: &Shape,
        window: &Window,
        plane: usize,
    ) {
        let (stride, channels) = (shape.c, self.first_channel..self.first_channel + self.channels);
        let lanes = isa.lanes();
        let block = self.columns * lanes;
        let left = window.padding[2][0].min(self.columns) * lanes;
        self.fill_with(stage, sample, shape, window, plane, |from, row| {
            let inside = shape.w.min(self.columns - left / lanes) * lanes;
            for block in row.chunks_exact_mut(block) {
                block[..left].fill(0.0);
                block[left + inside..].fill(0.0);
            }
            dispatch(
                isa,
                Deal { from, stride, channels: channels.clone(), to: &mut row[left..], block, length: inside },
            );
        });
    }

    fn fill_with(
        &self,
        stage: &mut [f32],
        sample: &[f32],
        shape: &Shape,
        window: &Window,
        plane: usize,
        copy: impl Fn(&[f32], &mut [f32]),
    ) {
        let [before_d, before_h, _] = window.padding.map(|pair| pair[0]);
        let slot = plane % self.slots * self.plane_stride();
        let slot = &mut stage[slot..slot + self.plane_stride()];
        let Some(d) = plane.checked_sub(before_d).filter(|&d| d < shape.d) else { return slot.fill(0.0) };
        for (row, out) in slot.chunks_exact_mut(self.row_stride()).enumerate() {
            let Some(h) = (self.first_row + row).checked_sub(before_h).filter(|&h| h < shape.h) else {
                out.fill(0.0);
                continue;
            };
            let start = (d * shape.h + h) * shape.w * shape.c;
            let line = &sample[start..start + shape.w * shape.c];
            copy(line, out);
        }
    }
}

/// Deals the channels of each pixel of `from` to blocks of one vector.
struct Deal<'a> {
    from: &'a [f32],
    /// Elements between pixels.
    stride: usize,
    channels: Range<usize>,
    to: &'a mut [f32],
    /// Elements between blocks, and those of a block that are written.
    block: usize,
    length: usize,
}

impl Kernel for Deal<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (pixel, from) in self.from.chunks_exact(self.stride).take(self.length / S::LANES).enumerate() {
            for (block, from) in from[self.channels.clone()].chunks_exact(S::LANES).enumerate() {
                let to = &mut self.to[block * self.block + pixel * S::LANES..][..S::LANES];
                // SAFETY: both are LANES long.
                unsafe { s.store(to.as_mut_ptr(), s.load(from.as_ptr())) };
            }
        }
    }
}
