//! A padded copy of the input: windows that reach over the border read zeros instead of being cut.
//!
//! The copy is made plane by plane (a plane is one depth position), because in 3D neighbouring outputs share planes.

use crate::shape::Shape;
use crate::window::Window;

/// A box of the padded input in memory: `[plane][row][column][channel]`. Positions count from the padding's corner.
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
        let [before_d, before_h, before_w] = window.padding.map(|pair| pair[0]);
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
            let left = before_w.min(self.columns);
            let inside = shape.w.min(self.columns - left);
            let (left, rest) = out.split_at_mut(left * self.channels);
            let (inside, right) = rest.split_at_mut(inside * self.channels);
            left.fill(0.0);
            right.fill(0.0);
            inside.copy_from_slice(&line[..inside.len()]);
        }
    }
}
