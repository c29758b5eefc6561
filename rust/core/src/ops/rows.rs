//! Rows of activations times a packed matrix: the inner part of products between activations.

use crate::gemm::{self, Ahead, Panels, Segment, Stages, Tile, group_sizes};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// `out[i][j] = Σ_r a[i][r] * b[r][j]` for the columns of one packed panel, or that added to what is in `out`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The first element of A.
    pub(super) a: *const f32,
    /// Elements between rows of A.
    pub(super) a_stride: usize,
    pub(super) rows: usize,
    /// Where the reduction is in A and in B.
    pub(super) segments: &'a [Segment],
    /// The panel: rows of `vectors` vectors.
    pub(super) b: &'a [f32],
    pub(super) vectors: usize,
    /// Columns of the output; those beyond, which fill up the last vector, are not written.
    pub(super) columns: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// What the sums start from, one number per column of the panel; without it they start from `out`.
    pub(super) start: Option<&'a [f32]>,
}

/// Computes the panel.
///
/// # Safety
/// The segments of every row lie in A, and their rows in `b`. The output has `rows` rows of `columns`, which nobody else
/// touches. The panel is one of `isa`: `vectors` is at most its tile's, and `columns` reaches into the last vector.
pub(super) unsafe fn run(isa: Isa, rows: Rows<'_>) {
    let width = rows.vectors * isa.lanes();
    assert!(rows.start.is_none_or(|start| start.len() >= width));
    debug_assert!(rows.segments.iter().all(|segment| (segment.b + segment.length) * width <= rows.b.len()));
    dispatch(isa, rows);
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut row = 0;
        while row < self.rows {
            let count = (self.rows - row).min(S::TILE_ROWS);
            let [first, second, third, _] = group_sizes(count);
            let starts = [row, row + first, row + first + second, row + first + second + third];
            let tile = Tile {
                a: starts.map(|row| self.a.wrapping_add(row * self.a_stride)),
                row_stride: self.a_stride,
                b: self.b.as_ptr(),
                segments: self.segments,
                out: self.out.wrapping_add(row * self.out_stride),
                out_stride: self.out_stride,
                columns: self.columns,
                bias: self.start.unwrap_or(self.b).as_ptr(),
                scaling: None,
                residual: std::ptr::null(),
                relu: false,
                ahead: Ahead { start: self.b.as_ptr(), step: 0 },
                next: None,
                stages: Stages { resume: self.start.is_none(), suspend: true },
            };
            // SAFETY: the contract of the function `run`, which alone makes this kernel.
            unsafe { gemm::run(s, &tile, count, self.vectors) };
            row += count;
        }
    }
}

/// Packs `b[r][j] = from[r * strides[0] + j * strides[1]]`; columns that only fill up the last vector are zero.
pub(super) fn pack(panels: Panels, from: &[f32], strides: [usize; 2], packed: &mut [f32]) {
    for index in 0..panels.count() {
        let panel = panels.panel(index);
        let width = panel.vectors * panels.lanes();
        let rows = packed[panel.start..panel.start + panels.rows * width].chunks_exact_mut(width);
        for (row, out) in rows.enumerate() {
            let (inside, outside) = out.split_at_mut(panel.columns);
            let from = &from[row * strides[0] + panel.column * strides[1]..];
            inside.iter_mut().zip(from.iter().step_by(strides[1])).for_each(|(to, &from)| *to = from);
            outside.fill(0.0);
        }
    }
}
