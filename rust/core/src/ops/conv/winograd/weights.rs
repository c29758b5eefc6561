//! The transformed weights: `U[product][c][k] = scale[k] * Σ_tap G_d G_h G_w weight[k][c][tap]`, a matrix in panels for each product.
//!
//! Each axis is transformed for a vector of output channels. Rounding to float32 in between adds a few per cent to the error
//! of a convolution, most of which is of the transforms of activations.

use std::ops::Range;

use super::super::weights::{Take, Weights};
use super::transform::{Axis, filter_lines};
use crate::gemm::Panels;
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, MOST_LANES, Simd};

/// Rows of a vector between the transforms of two axes: at most 4 taps with 6 by 6 products, or 3 with 8 by 8.
const ROWS: usize = 192;

/// `panels` cut the matrix (c, k) of one product.
pub(super) fn pack(
    weights: &Weights<'_>,
    axes: [Axis; 3],
    (isa, panels): (Isa, Panels),
    packed: &mut [f32],
    pool: &Pool,
) {
    let transform = Transform { axes, panels, packed: SharedMut::new(packed) };
    weights.deal([panels.columns, panels.width()], isa, &transform, pool);
}

/// Where the weights of a panel for a product start: all products of a panel follow each other.
pub(super) fn start(panels: &Panels, products: usize, index: usize, product: usize) -> usize {
    let panel = panels.panel(index);
    products * panel.start + product * panel.vectors * panels.lanes() * panels.rows
}

/// Floats from a vector that is written to one that is asked for: the one of the next row, where a panel has two vectors. All
/// matrices are written at once, too many and too far apart for the processor to see a pattern.
const AHEAD: usize = 2 * MOST_LANES;

/// Transforms weights and writes them.
struct Transform<'a> {
    axes: [Axis; 3],
    panels: Panels,
    packed: SharedMut<'a>,
}

impl Take for Transform<'_> {
    #[inline(always)]
    fn take<S: Simd>(&self, s: S, filters: Range<usize>, rows: Range<usize>, values: &[f32]) {
        let [depth, height, width] = self.axes;
        let taps = self.axes.map(Axis::taps);
        let count: usize = taps.iter().product();
        let products: usize = self.axes.map(Axis::products).iter().product();
        let index = filters.start / self.panels.width();
        let panel = self.panels.panel(index);
        let row = panel.vectors * S::LANES;
        let (matrix, last) = (row * self.panels.rows, start(&self.panels, products, index, products - 1));
        let first = start(&self.panels, products, index, 0) + filters.start - panel.column;
        let (mut lines, mut planes) = ([0.0; ROWS * MOST_LANES], [0.0; ROWS * MOST_LANES]);
        let plane = height.products() * width.products();
        assert!(taps[0] * taps[1] * width.products() <= ROWS && taps[0] * plane <= ROWS);
        assert!(rows.end <= self.panels.rows * count && last + matrix <= self.packed.len());
        for (c, values) in (rows.start / count..).zip(values.chunks_exact(count * S::LANES)) {
            let (lines, planes) = (lines.as_mut_ptr(), planes.as_mut_ptr());
            let to = self.packed.as_mut_ptr().wrapping_add(first + c * row);
            // SAFETY: there are as many taps, and room for as many products, as asserted. The vector of row c of every
            // matrix is written by no other task.
            unsafe {
                filter_lines::<S, 0>(s, width, [taps[0] * taps[1], 1], values.as_ptr(), (lines, S::LANES));
                filter_lines::<S, 0>(s, height, [taps[0], width.products()], lines, (planes, S::LANES));
                filter_lines::<S, AHEAD>(s, depth, [1, plane], planes, (to, matrix));
            }
        }
    }
}
