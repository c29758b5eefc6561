//! From the activations to the products' operands and back: the transforms of all axes for a run of tiles.
//!
//! A tile of `points` inputs (d, h, w) becomes one row in each of as many matrices `V[slot] (tiles, c)`; the products
//! `M[slot] = V[slot] U[slot] (tiles, k)` become a tile of outputs. Each vector of channels passes the axes one by one, over
//! a workspace of `points` vectors that stays in the first-level cache: w, h, d on the way in, d, h, w on the way out.

use std::ops::Range;

use super::transform::{self, Axis, input_line, output_line};
use crate::ops::activation::Activation;
use crate::ops::lanes::{load, store};
use crate::shape::Shape;
use crate::simd::{Kernel, Simd, for_rows};

/// Rows of a tile's inputs: at most 6 x 6.
const ROWS: usize = 36;

/// Where the tiles of a map are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    pub(super) axes: [Axis; 3],
    pub(super) input: Shape,
    pub(super) output: Shape,
    /// Padding before each axis.
    pub(super) before: [usize; 3],
}

impl Tiling {
    /// Tiles along each axis.
    pub(super) fn counts(&self) -> [usize; 3] {
        let dims = self.output.dims();
        [0, 1, 2].map(|axis| dims[axis].div_ceil(self.axes[axis].outputs()))
    }

    /// Tiles of all samples.
    pub(super) fn tiles(&self) -> usize {
        self.output.n * self.counts().iter().product::<usize>()
    }

    /// Inputs of a tile: the number of products.
    pub(super) fn slots(&self) -> usize {
        self.axes.iter().map(|axis| axis.points()).product()
    }

    /// The sample and the first output of a tile.
    fn place(&self, tile: usize) -> (usize, [usize; 3]) {
        let [d, h, w] = self.counts();
        let index = [tile / (w * h) % d, tile / w % h, tile % w];
        (tile / (w * h * d), [0, 1, 2].map(|axis| index[axis] * self.axes[axis].outputs()))
    }
}

/// V or M: a matrix for each slot.
#[derive(Clone, Copy)]
pub(super) struct Slots {
    pub(super) start: *mut f32,
    /// Floats between slots, and between the rows of a slot.
    pub(super) slot: usize,
    pub(super) row: usize,
}

/// `V = Bᵀ x B` for a run of tiles.
pub(super) struct Gather<'a> {
    pub(super) tiling: &'a Tiling,
    pub(super) x: &'a [f32],
    pub(super) tiles: Range<usize>,
    /// The first row is that of the first tile; rows are whole vectors.
    pub(super) v: Slots,
    /// A vector for each slot.
    pub(super) workspace: *mut f32,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiling { axes, input, before, .. } = *self.tiling;
        let [points_d, points_h, points_w] = axes.map(Axis::points);
        for (index, tile) in self.tiles.clone().enumerate() {
            let (n, first) = self.tiling.place(tile);
            // The positions along each axis that are inside, of those that the tile reads.
            let inside = |axis: usize, size: usize| {
                let end = (size + before[axis]).saturating_sub(first[axis]).min(axes[axis].points());
                before[axis].saturating_sub(first[axis]).min(end)..end
            };
            let [d, h, w] = [inside(0, input.d), inside(1, input.h), inside(2, input.w)];
            let mut rows = [None; ROWS];
            for i in d.clone() {
                for j in h.clone().filter(|_| !w.is_empty()) {
                    let (plane, row) = (first[0] + i - before[0], first[1] + j - before[1]);
                    let start = ((n * input.d + plane) * input.h + row) * input.w + first[2] + w.start - before[2];
                    rows[i * points_h + j] = Some(start * input.c);
                }
            }
            let to = self.v.start.wrapping_add(index * self.v.row);
            for channel in (0..input.c).step_by(S::LANES) {
                let tail = (channel + S::LANES > input.c).then(|| s.first(input.c - channel));
                let rows = &rows[..points_d * points_h];
                let line = Line { s, x: self.x, channels: input.c, channel, tail, inside: &w };
                // SAFETY: the workspace has a vector for each slot, V a row of whole vectors for each tile.
                unsafe {
                    match axes[2] {
                        Axis::F4 => line.along_w::<6>(rows, self.workspace),
                        _ => line.along_w::<4>(rows, self.workspace),
                    }
                    let to = to.add(channel);
                    let (row, plane) = (points_w, points_w * points_h);
                    if axes[0] == Axis::One {
                        self.along(s, axes[1], row, 0..points_w, (to, self.v.slot));
                        continue;
                    }
                    for i in 0..points_d {
                        let start = i * plane;
                        self.along(s, axes[1], row, start..start + points_w, (self.workspace, S::LANES));
                    }
                    self.along(s, axes[0], plane, 0..plane, (to, self.v.slot));
                }
            }
        }
    }
}

impl Gather<'_> {
    /// The lines of the workspace that start at `starts` and go in steps of `stride`, to the same places of `to`, whose
    /// vectors are as far apart as it says.
    ///
    /// # Safety
    /// The workspace must be that long; `to` may be written there.
    #[inline(always)]
    unsafe fn along<S: Simd>(&self, s: S, axis: Axis, stride: usize, starts: Range<usize>, to: (*mut f32, usize)) {
        for start in starts {
            let from = self.workspace.wrapping_add(start * S::LANES);
            let (to, pitch) = (to.0.wrapping_add(start * to.1), stride * to.1);
            // SAFETY: by this function's contract.
            unsafe {
                match axis {
                    Axis::F4 => input_line::<S, 6>(s, from, stride * S::LANES, to, pitch),
                    _ => input_line::<S, 4>(s, from, stride * S::LANES, to, pitch),
                }
            }
        }
    }
}

/// A vector of channels of the rows that a tile reads.
struct Line<'a, S: Simd> {
    s: S,
    x: &'a [f32],
    channels: usize,
    channel: usize,
    tail: Option<S::M>,
    /// The positions that are not padding.
    inside: &'a Range<usize>,
}

impl<S: Simd> Line<'_, S> {
    /// Transforms each row, whose first position inside is at that place, or which is padding.
    ///
    /// # Safety
    /// `to` has `POINTS` vectors for each row, which may be written.
    #[inline(always)]
    unsafe fn along_w<const POINTS: usize>(&self, rows: &[Option<usize>], to: *mut f32) {
        let Self { s, x, channels, channel, tail, inside } = self;
        for (index, row) in rows.iter().enumerate() {
            let mut line = [s.splat(0.0); POINTS];
            if let Some(start) = *row {
                debug_assert!(start + (inside.len() - 1) * channels + channel < x.len());
                let from = x.as_ptr().wrapping_add(start + channel);
                if inside.len() == POINTS && tail.is_none() {
                    // SAFETY: all positions are in the row, and so are all lanes.
                    line = unsafe { transform::read::<S, POINTS>(*s, from, *channels) };
                } else {
                    for_rows!(POINTS, i, {
                        if inside.contains(&i) {
                            // SAFETY: this one is, as far as the mask goes.
                            line[i] = unsafe { load(*s, from.add((i - inside.start) * channels), *tail) };
                        }
                    });
                }
            }
            let line = transform::input(*s, line);
            for_rows!(POINTS, i, {
                // SAFETY: by this function's contract.
                unsafe { s.store(to.add((index * POINTS + i) * S::LANES), line[i]) };
            });
        }
    }
}

/// `y = activation(Aᵀ M A + bias + residual)` for a run of tiles.
pub(super) struct Scatter<'a> {
    pub(super) tiling: &'a Tiling,
    pub(super) tiles: Range<usize>,
    /// The first row is that of the first tile; rows are whole vectors.
    pub(super) m: Slots,
    pub(super) workspace: *mut f32,
    /// Whole vectors.
    pub(super) bias: &'a [f32],
    pub(super) residual: Option<&'a [f32]>,
    pub(super) activation: Activation,
    /// All of the output: each tile has its part.
    pub(super) y: *mut f32,
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiling { axes, output, .. } = *self.tiling;
        let [_, points_h, points_w] = axes.map(Axis::points);
        let (row, plane) = (points_w, points_w * points_h);
        for (index, tile) in self.tiles.clone().enumerate() {
            let (n, first) = self.tiling.place(tile);
            let size = |axis: usize| axes[axis].outputs().min(output.dims()[axis] - first[axis]);
            let [d, h, w] = [size(0), size(1), size(2)];
            let from = self.m.start.wrapping_add(index * self.m.row);
            for channel in (0..output.c).step_by(S::LANES) {
                let tail = (channel + S::LANES > output.c).then(|| s.first(output.c - channel));
                // SAFETY: M has a row of whole vectors for each tile and the workspace a vector for each slot.
                unsafe {
                    let mut source = (from.add(channel).cast_const(), self.m.slot);
                    if axes[0] != Axis::One {
                        self.along(s, axes[0], plane, 0..plane, source);
                        source = (self.workspace.cast_const(), S::LANES);
                    }
                    for i in 0..d {
                        self.along(s, axes[1], row, i * plane..i * plane + row, source);
                        for j in 0..h {
                            let line = self.workspace.wrapping_add((i * plane + j * row) * S::LANES);
                            let at = ((n * output.d + first[0] + i) * output.h + first[1] + j) * output.w + first[2];
                            let at = at * output.c + channel;
                            match axes[2] {
                                Axis::F4 => self.finish::<S, 6, 4>(s, line, w, at, channel, tail),
                                _ => self.finish::<S, 4, 2>(s, line, w, at, channel, tail),
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Scatter<'_> {
    /// The lines of `from` that start at `starts` and go in steps of `stride`, to the same places of the workspace.
    /// Vectors of `from` are as far apart as it says.
    ///
    /// # Safety
    /// The workspace must be that long; `from` can be read there.
    #[inline(always)]
    unsafe fn along<S: Simd>(&self, s: S, axis: Axis, stride: usize, starts: Range<usize>, from: (*const f32, usize)) {
        for start in starts {
            let to = self.workspace.wrapping_add(start * S::LANES);
            let (from, pitch) = (from.0.wrapping_add(start * from.1), stride * from.1);
            // SAFETY: by this function's contract.
            unsafe {
                match axis {
                    Axis::F4 => output_line::<S, 6, 4>(s, from, pitch, to, stride * S::LANES),
                    _ => output_line::<S, 4, 2>(s, from, pitch, to, stride * S::LANES),
                }
            }
        }
    }

    /// The last axis of a row of `w` outputs, and what follows the convolution, to the place `at`.
    ///
    /// # Safety
    /// `line` is `POINTS` vectors; the outputs are inside, and nobody else writes them.
    #[inline(always)]
    unsafe fn finish<S: Simd, const POINTS: usize, const OUTPUTS: usize>(
        &self,
        s: S,
        line: *const f32,
        w: usize,
        at: usize,
        channel: usize,
        tail: Option<S::M>,
    ) {
        let pitch = self.tiling.output.c;
        // SAFETY: by the contract of this function; the bias is whole vectors.
        let line = unsafe { transform::read::<S, POINTS>(s, line, S::LANES) };
        let y: [S::V; OUTPUTS] = transform::output(s, line);
        // SAFETY: as above.
        let bias = unsafe { s.load(self.bias.as_ptr().add(channel)) };
        for_rows!(OUTPUTS, i, {
            if i < w {
                let mut y = s.add(y[i], bias);
                // SAFETY: as above.
                unsafe {
                    if let Some(residual) = self.residual {
                        y = s.add(y, load(s, residual.as_ptr().add(at + i * pitch), tail));
                    }
                    store(s, self.y.add(at + i * pitch), self.activation.apply_cheap(s, y), tail);
                }
            }
        });
        if !self.activation.is_cheap() {
            for i in 0..w {
                let y = self.y.wrapping_add(at + i * pitch);
                // SAFETY: as above.
                unsafe { store(s, y, self.activation.apply(s, load(s, y, tail)), tail) };
            }
        }
    }
}
