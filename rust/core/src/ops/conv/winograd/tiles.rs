//! From the activations to the products' operands and back: the transforms of all axes for a run of tiles.
//!
//! A tile of inputs (d, h, w) becomes one row in each of the matrices `V[point] (tiles, c)`; the products
//! `M[product] = V[point] U[product] (tiles, k)` become a tile of outputs. Each vector of channels passes the axes one by
//! one, over a workspace that stays in the first-level cache: w, h, d on the way in, d, h, w on the way out.

use std::ops::Range;

use super::transform::{self, Axis, input_line, output_line};
use crate::ops::activation::Activation;
use crate::ops::lanes::{load, store};
use crate::shape::Shape;
use crate::simd::{Kernel, Simd, for_rows};

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

    /// Points of a tile: the matrices of V.
    pub(super) fn points(&self) -> usize {
        self.axes.iter().map(|axis| axis.points()).product()
    }

    /// Products of a tile: the matrices of M.
    pub(super) fn products(&self) -> usize {
        self.axes.iter().map(|axis| axis.products()).product()
    }

    /// The point that a product is of.
    pub(super) fn point(&self, product: usize) -> usize {
        let [d, h, w] = self.axes;
        let index =
            [product / (h.products() * w.products()), product / w.products() % h.products(), product % w.products()];
        (d.point(index[0]) * h.points() + h.point(index[1])) * w.points() + w.point(index[2])
    }

    /// The sample of a tile, and which it is along each axis.
    pub(super) fn place(&self, tile: usize) -> (usize, [usize; 3]) {
        let [d, h, w] = self.counts();
        (tile / (w * h * d), [tile / (w * h) % d, tile / w % h, tile % w])
    }

    /// The sample of a tile, its first output along each axis, and how many of its outputs are inside the map.
    pub(super) fn outputs(&self, tile: usize) -> (usize, [usize; 3], [usize; 3]) {
        let (n, place) = self.place(tile);
        let (outputs, dims) = (self.axes.map(Axis::outputs), self.output.dims());
        let first: [usize; 3] = std::array::from_fn(|axis| place[axis] * outputs[axis]);
        (n, first, std::array::from_fn(|axis| outputs[axis].min(dims[axis] - first[axis])))
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

/// A map whose channels are some of those of the input.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) x: &'a [f32],
    pub(super) channels: usize,
    /// Which of the input's channels its first one is.
    pub(super) first: usize,
}

/// `V = Bᵀ x B` for a run of tiles.
pub(super) struct Gather<'a> {
    pub(super) tiling: &'a Tiling,
    /// Side by side, in the order of their channels.
    pub(super) sources: &'a [Source<'a>],
    pub(super) tiles: Range<usize>,
    /// The first row is that of the first tile; rows are whole vectors.
    pub(super) v: Slots,
    /// A vector for each product.
    pub(super) workspace: *mut f32,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Inputs and points along the depth and along the others: the loops over them have fixed lengths.
        match self.tiling.axes {
            [Axis::One, _, Axis::F2] => self.all::<S, 1, 1, 4, 4>(s),
            [Axis::One, _, Axis::U2] => self.all::<S, 1, 1, 3, 3>(s),
            [Axis::One, _, Axis::U6] => self.all::<S, 1, 1, 5, 7>(s),
            [Axis::One, ..] => self.all::<S, 1, 1, 6, 6>(s),
            [Axis::F2, _, Axis::F2] => self.all::<S, 4, 4, 4, 4>(s),
            [Axis::F2, ..] => self.all::<S, 4, 4, 6, 6>(s),
            [Axis::F3 | Axis::F4, ..] => self.all::<S, 6, 6, 6, 6>(s),
            [Axis::U2, ..] => self.all::<S, 3, 3, 3, 3>(s),
            [Axis::U6, ..] => self.all::<S, 5, 7, 5, 7>(s),
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn all<S: Simd, const INPUTS_D: usize, const POINTS_D: usize, const INPUTS: usize, const POINTS: usize>(
        &self,
        s: S,
    ) {
        let Tiling { axes, input, before, .. } = *self.tiling;
        for (index, tile) in self.tiles.clone().enumerate() {
            let (n, place) = self.tiling.place(tile);
            let first: [usize; 3] = std::array::from_fn(|axis| place[axis] * axes[axis].step());
            // The positions along each axis that are inside, of those that the tile reads.
            let inside = |axis: usize, size: usize| {
                let end = (size + before[axis]).saturating_sub(first[axis]).min(axes[axis].inputs());
                before[axis].saturating_sub(first[axis]).min(end)..end
            };
            let [d, h, w] = [inside(0, input.d), inside(1, input.h), inside(2, input.w)];
            let vectors = self
                .sources
                .iter()
                .flat_map(|source| (0..source.channels).step_by(S::LANES).map(move |at| (source, at)));
            for (source, channel) in vectors {
                // Lanes beyond the channels are zero here, and then those of the next source.
                let &Source { x, channels, first: first_channel } = source;
                let tail = (channel + S::LANES > channels).then(|| s.first(channels - channel));
                let line = Line { s, channels, tail, inside: &w };
                let v = self.v.start.wrapping_add(index * self.v.row + first_channel + channel);
                for i in 0..INPUTS_D {
                    let plane = self.workspace.wrapping_add(i * POINTS * POINTS * S::LANES);
                    for j in 0..INPUTS {
                        let mut from = None;
                        if d.contains(&i) && h.contains(&j) && !w.is_empty() {
                            let at = (n * input.d + first[0] + i - before[0]) * input.h + first[1] + j - before[1];
                            let at = (at * input.w + first[2] + w.start - before[2]) * channels + channel;
                            debug_assert!(at + (w.len() - 1) * channels < x.len());
                            from = Some(x.as_ptr().wrapping_add(at));
                        }
                        let to = plane.wrapping_add(j * POINTS * S::LANES);
                        // SAFETY: the positions inside are in the row; the workspace has a vector for each product.
                        unsafe { line.along_w::<INPUTS, POINTS>(from, to) };
                    }
                    let (to, pitch) = if POINTS_D == 1 { (v, self.v.slot) } else { (plane, S::LANES) };
                    for q in 0..POINTS {
                        let (from, to) = (plane.wrapping_add(q * S::LANES), to.wrapping_add(q * pitch));
                        // SAFETY: as above; V has a row of whole vectors for each tile.
                        unsafe { input_line::<S, INPUTS, POINTS>(s, from, POINTS * S::LANES, to, POINTS * pitch) };
                    }
                }
                if POINTS_D > 1 {
                    let stride = POINTS * POINTS;
                    for q in 0..stride {
                        let from = self.workspace.wrapping_add(q * S::LANES);
                        let to = v.wrapping_add(q * self.v.slot);
                        // SAFETY: as above.
                        unsafe {
                            input_line::<S, INPUTS_D, POINTS_D>(s, from, stride * S::LANES, to, stride * self.v.slot);
                        }
                        // What follows in V is written next.
                        for_rows!(POINTS_D, p, {
                            s.prefetch(to.wrapping_add(p * stride * self.v.slot + S::LANES));
                        });
                    }
                }
            }
        }
    }
}

/// A vector of channels of the rows that a tile reads.
struct Line<'a, S: Simd> {
    s: S,
    channels: usize,
    tail: Option<S::M>,
    /// The positions that are not padding.
    inside: &'a Range<usize>,
}

impl<S: Simd> Line<'_, S> {
    /// Transforms a row, whose first position inside is at `from`, or which is padding.
    ///
    /// # Safety
    /// The positions inside can be read; `to` has room for `POINTS` vectors.
    #[inline(always)]
    unsafe fn along_w<const INPUTS: usize, const POINTS: usize>(&self, from: Option<*const f32>, to: *mut f32) {
        /// At least as many as there are inputs between tiles.
        const STEP: usize = 4;
        let Self { s, channels, tail, inside } = self;
        let mut line = [s.splat(0.0); INPUTS];
        if let Some(from) = from {
            // The next tile reads on from here.
            for i in 0..STEP {
                s.prefetch(from.wrapping_add((inside.len() + i) * channels));
            }
            if inside.len() == INPUTS && tail.is_none() {
                // SAFETY: all positions are in the row, and so are all lanes.
                line = unsafe { transform::read::<S, INPUTS>(*s, from, *channels) };
            } else {
                for_rows!(INPUTS, i, {
                    if inside.contains(&i) {
                        // SAFETY: this one is, as far as the mask goes.
                        line[i] = unsafe { load(*s, from.add((i - inside.start) * channels), *tail) };
                    }
                });
            }
        }
        let line: [S::V; POINTS] = transform::input(*s, line);
        for_rows!(POINTS, i, {
            // SAFETY: by this function's contract.
            unsafe { s.store(to.add(i * S::LANES), line[i]) };
        });
    }
}

/// `y = activation(Aᵀ M A + bias + residual)` for a run of tiles and some of the output channels.
pub(super) struct Scatter<'a> {
    pub(super) tiling: &'a Tiling,
    pub(super) tiles: Range<usize>,
    pub(super) channels: Range<usize>,
    /// The first row is that of the first tile and the first of the channels; rows are whole vectors.
    pub(super) m: Slots,
    pub(super) workspace: *mut f32,
    /// Whole vectors.
    pub(super) bias: &'a [f32],
    /// The first element of what is added, laid out as the output; it may be the output.
    pub(super) residual: Option<*const f32>,
    pub(super) activation: Activation,
    /// All of the output: each tile has its part.
    pub(super) y: *mut f32,
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Products and outputs along the depth and along the others.
        match self.tiling.axes {
            [Axis::One, _, Axis::F2] => self.all::<S, 1, 1, 4, 2>(s),
            [Axis::One, _, Axis::F3] => self.all::<S, 1, 1, 6, 3>(s),
            [Axis::One, _, Axis::U2] => self.all::<S, 1, 1, 3, 2>(s),
            [Axis::One, _, Axis::U6] => self.all::<S, 1, 1, 8, 6>(s),
            [Axis::One, ..] => self.all::<S, 1, 1, 6, 4>(s),
            [Axis::F2, _, Axis::F2] => self.all::<S, 4, 2, 4, 2>(s),
            [Axis::F2, ..] => self.all::<S, 4, 2, 6, 4>(s),
            [Axis::F3, ..] => self.all::<S, 6, 3, 6, 3>(s),
            [Axis::F4, ..] => self.all::<S, 6, 4, 6, 4>(s),
            [Axis::U2, ..] => self.all::<S, 3, 2, 3, 2>(s),
            [Axis::U6, ..] => self.all::<S, 8, 6, 8, 6>(s),
        }
    }
}

impl Scatter<'_> {
    #[inline(always)]
    fn all<S: Simd, const PRODUCTS_D: usize, const OUTPUTS_D: usize, const PRODUCTS: usize, const OUTPUTS: usize>(
        &self,
        s: S,
    ) {
        let output = self.tiling.output;
        let plane = PRODUCTS * PRODUCTS;
        for (index, tile) in self.tiles.clone().enumerate() {
            let (n, first, [d, h, w]) = self.tiling.outputs(tile);
            for channel in self.channels.clone().step_by(S::LANES) {
                let m = self.m.start.wrapping_add(index * self.m.row + channel - self.channels.start).cast_const();
                let tail = (channel + S::LANES > output.c).then(|| s.first(output.c - channel));
                // SAFETY: M has a row of whole vectors for each tile and the workspace a vector for each product.
                unsafe {
                    if PRODUCTS_D > 1 {
                        for q in 0..plane {
                            let (from, to) =
                                (m.wrapping_add(q * self.m.slot), self.workspace.wrapping_add(q * S::LANES));
                            let pitch = plane * self.m.slot;
                            output_line::<S, PRODUCTS_D, OUTPUTS_D>(s, from, pitch, to, plane * S::LANES);
                            // What follows in M is read next.
                            for_rows!(PRODUCTS_D, p, {
                                s.prefetch(from.wrapping_add(p * pitch + S::LANES));
                            });
                        }
                    }
                    for i in 0..d {
                        let to = self.workspace.wrapping_add(i * plane * S::LANES);
                        let (from, pitch) = if PRODUCTS_D > 1 { (to.cast_const(), S::LANES) } else { (m, self.m.slot) };
                        for q in 0..PRODUCTS {
                            let (from, to) = (from.wrapping_add(q * pitch), to.wrapping_add(q * S::LANES));
                            output_line::<S, PRODUCTS, OUTPUTS>(s, from, PRODUCTS * pitch, to, PRODUCTS * S::LANES);
                        }
                        for j in 0..h {
                            let line = to.wrapping_add(j * PRODUCTS * S::LANES);
                            let at = ((n * output.d + first[0] + i) * output.h + first[1] + j) * output.w + first[2];
                            let at = at * output.c + channel;
                            self.finish::<S, PRODUCTS, OUTPUTS>(s, line, w, at, channel, tail);
                        }
                    }
                }
            }
        }
    }

    /// The last axis of a row of `w` outputs, and what follows the convolution, to the place `at`.
    ///
    /// # Safety
    /// `line` is `PRODUCTS` vectors; the outputs are inside, and nobody else writes them.
    #[inline(always)]
    unsafe fn finish<S: Simd, const PRODUCTS: usize, const OUTPUTS: usize>(
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
        let line = unsafe { transform::read::<S, PRODUCTS>(s, line, S::LANES) };
        let y: [S::V; OUTPUTS] = transform::output(s, line);
        // SAFETY: as above.
        let bias = unsafe { s.load(self.bias.as_ptr().add(channel)) };
        for_rows!(OUTPUTS, i, {
            if i < w {
                let mut y = s.add(y[i], bias);
                // SAFETY: as above.
                unsafe {
                    if let Some(residual) = self.residual {
                        y = s.add(y, load(s, residual.add(at + i * pitch), tail));
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
