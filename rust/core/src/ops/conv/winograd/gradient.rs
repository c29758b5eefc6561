//! The gradient of the weights of a convolution that Winograd's algorithm can compute.
//!
//! Forward, `M[product] = V[point] U[product]` with `V = Bᵀ x B` and `U = G w Gᵀ`, and `y = Aᵀ M A`. All of it is linear, so
//! the way back is the transposed of each part, from the last to the first:
//!
//! `D[product] = A d_y Aᵀ`, `d_U[product] (c, k) = Σ_tiles V[point]ᵀ D[product]`, `d_w += Gᵀ d_U G`
//!
//! with as few multiplications as forward. Where there are more tiles than V and D have room for they come block by block, and
//! d_U stays. Blocks depend on the shapes alone, each d_U has one task for each block, and sums are in the order of the tiles:
//! no bit depends on the number of threads.

use std::ops::Range;

use super::tiles::{Gather, Slots, Source, Tiling};
use super::transform::{self, Axis, fold_line, spread_line};
use super::{SHARED, Variant};
use crate::buffer::{LINE, align_up};
use crate::gemm::outer::{self, Outer, Run};
use crate::ops::conv::blocking::Work;
use crate::ops::lanes::load;
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, Simd, dispatch, for_rows};

/// The compiled gradient.
pub(in super::super) struct Gradient {
    isa: Isa,
    work: Work,
    tiling: Tiling,
    /// Tiles of a block.
    block: usize,
}

/// A line of floats more than `count` needs, if it needs an even number: rows, or matrices, that are a power of two apart
/// share few sets of a cache.
fn odd_lines(count: usize) -> usize {
    (count.div_ceil(LINE) | 1) * LINE
}

impl Gradient {
    pub(in super::super) fn new(isa: Isa, work: Work, variant: Variant) -> Self {
        let Work { window, input, output, .. } = work;
        let tiling = Tiling { axes: variant.axes(), input, output, before: window.padding.map(|pair| pair[0]) };
        let mut new = Self { isa, work, tiling, block: 1 };
        let tiles = tiling.tiles();
        let [v, d] = new.rows();
        let room = SHARED.max(tiling.products() * new.matrix() / 2);
        let blocks = tiles.div_ceil((room / (tiling.points() * (v + d))).max(1));
        new.block = tiles.div_ceil(blocks);
        new
    }

    /// Floats between the rows of V and of D.
    fn rows(&self) -> [usize; 2] {
        [self.work.input.c, self.work.output.c].map(odd_lines)
    }

    /// Floats between the rows of d_U: whole lines.
    fn columns(&self) -> usize {
        align_up(self.work.output.c)
    }

    /// Floats between the matrices of d_U.
    fn matrix(&self) -> usize {
        odd_lines(self.work.input.c * self.columns())
    }

    /// V, D, d_U, and a workspace, in scratch memory: their lengths.
    fn parts(&self) -> [usize; 4] {
        let products = self.tiling.products();
        let [v, d] = self.rows().map(|row| products * odd_lines(self.block * row));
        [v, d, products * self.matrix(), align_up(products * self.isa.lanes())]
    }

    pub(in super::super) fn scratch(&self) -> usize {
        let [v, d, sums, workspace] = self.parts();
        v + d + sums + self.work.threads * workspace
    }

    /// V and D in scratch memory.
    fn slots(&self, matrices: *mut f32) -> [Slots; 2] {
        let [v, ..] = self.parts();
        let rows = self.rows();
        let slots = |start, row| Slots { start, slot: odd_lines(self.block * row), row };
        [slots(matrices, rows[0]), slots(matrices.wrapping_add(v), rows[1])]
    }

    /// Adds the gradient to `d_weight`, `(k, c, taps)`.
    pub(in super::super) fn run(&self, x: &[f32], d_y: &[f32], d_weight: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        let Work { window, input, output, .. } = self.work;
        assert!(x.len() == input.len() && d_y.len() == output.len());
        assert_eq!(d_weight.len(), output.c * input.c * window.taps());
        let [v, d, sums, _] = self.parts();
        let (matrices, rest) = scratch[..self.scratch()].split_at_mut(v + d);
        let (sums, workspaces) = rest.split_at_mut(sums);
        let all = self.tiling.tiles();
        let blocks = all.div_ceil(self.block);
        for block in 0..blocks {
            let tiles = block * all / blocks..(block + 1) * all / blocks;
            let matrices = SharedMut::new(&mut *matrices);
            self.transform(x, d_y, tiles.clone(), matrices, workspaces, pool);
            let (sums, pieces) = (SharedMut::new(&mut *sums), self.pieces());
            pool.for_each(self.tiling.products() * pieces, |task| {
                let slots = self.slots(matrices.as_mut_ptr());
                let (product, piece) = (task / pieces, task % pieces);
                let columns = piece * self.panels() / pieces..(piece + 1) * self.panels() / pieces;
                let out = sums.as_mut_ptr().wrapping_add(product * self.matrix());
                let (tiles, add) = (tiles.len(), block > 0);
                dispatch(self.isa, Multiply { gradient: self, slots, out, tiles, product, panels: columns, add });
            });
        }
        pool.for_each_chunk(d_weight, LINE * input.c * window.taps(), |task, d_weight| {
            dispatch(self.isa, Fold { gradient: self, sums, first: task * LINE, d_weight });
        });
    }

    /// V and D of some tiles.
    fn transform(
        &self,
        x: &[f32],
        d_y: &[f32],
        tiles: Range<usize>,
        matrices: SharedMut<'_>,
        workspaces: &mut [f32],
        pool: &Pool,
    ) {
        /// Tiles that are worth a task.
        const LEAST: usize = 4;
        let sources = [Source { x, channels: self.work.input.c, first: 0 }];
        let tasks = tiles.len().div_ceil(LEAST);
        pool.for_each_scratch(tasks, workspaces, |task, workspace| {
            let (first, end) = (task * tiles.len() / tasks, (task + 1) * tiles.len() / tasks);
            let own = tiles.start + first..tiles.start + end;
            let [v, d] = self
                .slots(matrices.as_mut_ptr())
                .map(|slots| Slots { start: slots.start.wrapping_add(first * slots.row), ..slots });
            let (tiling, workspace) = (&self.tiling, workspace.as_mut_ptr());
            dispatch(self.isa, Gather { tiling, sources: &sources, tiles: own.clone(), v, workspace });
            dispatch(self.isa, Spread { tiling, d_y, tiles: own, d, workspace });
        });
    }

    /// Panels of a matrix of d_U: as many columns as the register tile has.
    fn panels(&self) -> usize {
        self.columns().div_ceil(self.width())
    }

    fn width(&self) -> usize {
        self.isa.lanes() * self.isa.tile().1
    }

    /// Into how many pieces the panels of a matrix are cut, so that there are tasks for the threads, evenly.
    fn pieces(&self) -> usize {
        (4 * self.work.threads).div_ceil(self.tiling.products()).min(self.panels())
    }
}

/// `D = A d_y Aᵀ` for a run of tiles.
struct Spread<'a> {
    tiling: &'a Tiling,
    d_y: &'a [f32],
    tiles: Range<usize>,
    /// The first row is that of the first tile; rows are whole vectors.
    d: Slots,
    /// A vector for each product.
    workspace: *mut f32,
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Outputs and products along the depth and along the others.
        match self.tiling.axes {
            [Axis::One, _, Axis::F2] => self.all::<S, 1, 1, 2, 4>(s),
            [Axis::One, ..] => self.all::<S, 1, 1, 4, 6>(s),
            [Axis::F2, _, Axis::F2] => self.all::<S, 2, 4, 2, 4>(s),
            [Axis::F2, ..] => self.all::<S, 2, 4, 4, 6>(s),
            _ => self.all::<S, 4, 6, 4, 6>(s),
        }
    }
}

impl Spread<'_> {
    #[inline(always)]
    fn all<S: Simd, const OUTPUTS_D: usize, const PRODUCTS_D: usize, const OUTPUTS: usize, const PRODUCTS: usize>(
        &self,
        s: S,
    ) {
        let output = self.tiling.output;
        let plane = PRODUCTS * PRODUCTS;
        for (index, tile) in self.tiles.clone().enumerate() {
            let (n, first, [d, h, w]) = self.tiling.outputs(tile);
            for channel in (0..output.c).step_by(S::LANES) {
                let tail = (channel + S::LANES > output.c).then(|| s.first(output.c - channel));
                let to = self.d.start.wrapping_add(index * self.d.row + channel);
                for i in 0..OUTPUTS_D {
                    let part = self.workspace.wrapping_add(i * plane * S::LANES);
                    for j in 0..OUTPUTS {
                        // What is beyond the map has no gradient.
                        let mut line = [s.splat(0.0); OUTPUTS];
                        if i < d && j < h {
                            let at = ((n * output.d + first[0] + i) * output.h + first[1] + j) * output.w + first[2];
                            debug_assert!((at + w) * output.c <= self.d_y.len());
                            let from = self.d_y.as_ptr().wrapping_add(at * output.c + channel);
                            for_rows!(OUTPUTS, k, {
                                if k < w {
                                    // SAFETY: this output is inside the map, as far as the mask goes.
                                    line[k] = unsafe { load(s, from.add(k * output.c), tail) };
                                }
                            });
                        }
                        let line: [S::V; PRODUCTS] = transform::spread(s, line);
                        for_rows!(PRODUCTS, q, {
                            // SAFETY: the workspace has a vector for each product.
                            unsafe { s.store(part.add((j * PRODUCTS + q) * S::LANES), line[q]) };
                        });
                    }
                    let (to, pitch) = if PRODUCTS_D == 1 { (to, self.d.slot) } else { (part, S::LANES) };
                    for q in 0..PRODUCTS {
                        let (from, to) = (part.wrapping_add(q * S::LANES), to.wrapping_add(q * pitch));
                        // SAFETY: as above; D has a row of whole vectors for each tile.
                        unsafe {
                            spread_line::<S, OUTPUTS, PRODUCTS>(s, from, PRODUCTS * S::LANES, to, PRODUCTS * pitch)
                        };
                    }
                }
                if PRODUCTS_D > 1 {
                    for q in 0..plane {
                        let (from, to) = (self.workspace.wrapping_add(q * S::LANES), to.wrapping_add(q * self.d.slot));
                        let pitch = plane * self.d.slot;
                        // SAFETY: as above.
                        unsafe { spread_line::<S, OUTPUTS_D, PRODUCTS_D>(s, from, plane * S::LANES, to, pitch) };
                        // What follows in D is written next.
                        for_rows!(PRODUCTS_D, p, {
                            s.prefetch(to.wrapping_add(p * pitch + S::LANES));
                        });
                    }
                }
            }
        }
    }
}

/// `d_U[product] += V[point]ᵀ D[product]` for some panels of one product.
struct Multiply<'a> {
    gradient: &'a Gradient,
    slots: [Slots; 2],
    /// The matrix of the product.
    out: *mut f32,
    tiles: usize,
    product: usize,
    panels: Range<usize>,
    /// Whether the matrix holds sums of earlier tiles.
    add: bool,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gradient, slots: [v, d], tiles, product, .. } = self;
        let runs = [Run { a: 0, b: 0, length: tiles }];
        let (channels, columns, width) = (gradient.work.input.c, gradient.columns(), gradient.width());
        let rows = channels.div_ceil(S::TILE_ROWS);
        let point = gradient.tiling.point(product);
        for panel in self.panels.clone() {
            let first = panel * width;
            // Lanes beyond the channels are zero.
            let count = width.min(columns - first);
            for row in 0..rows {
                let c = row * channels / rows..(row + 1) * channels / rows;
                let outer = Outer {
                    a: v.start.wrapping_add(point * v.slot + c.start),
                    b: d.start.wrapping_add(product * d.slot + first),
                    steps: [v.row, d.row],
                    runs: &runs,
                    columns: count,
                    out: self.out.wrapping_add(c.start * columns + first),
                    out_stride: columns,
                    add: self.add,
                };
                // SAFETY: V and D have a row for each tile, of whole vectors; each task has its own part of the sums.
                unsafe { outer::run(s, &outer, c.len(), count / S::LANES) };
            }
        }
    }
}

/// `d_w += Gᵀ d_U G` for as many output channels as there are in a line.
struct Fold<'a> {
    gradient: &'a Gradient,
    sums: &'a [f32],
    /// The first output channel.
    first: usize,
    /// `(k, c, taps)` of these channels.
    d_weight: &'a mut [f32],
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Products and taps along the depth, products along the others.
        match self.gradient.tiling.axes {
            [Axis::One, _, Axis::F2] => self.all::<S, 1, 1, 4>(s),
            [Axis::One, ..] => self.all::<S, 1, 1, 6>(s),
            [Axis::F2, _, Axis::F2] => self.all::<S, 4, 3, 4>(s),
            [Axis::F2, ..] => self.all::<S, 4, 3, 6>(s),
            _ => self.all::<S, 6, 3, 6>(s),
        }
    }
}

impl Fold<'_> {
    #[inline(always)]
    fn all<S: Simd, const PRODUCTS_D: usize, const TAPS_D: usize, const PRODUCTS: usize>(self, s: S) {
        /// Along each but the first axis.
        const TAPS: usize = 3;
        /// Vectors between the axes: taps of the depth with products of the others.
        const ROWS: usize = 3 * 36;
        let Self { gradient, sums, first, d_weight } = self;
        let (channels, columns, matrix) = (gradient.work.input.c, gradient.columns(), gradient.matrix());
        let taps = TAPS_D * TAPS * TAPS;
        let plane = PRODUCTS * PRODUCTS;
        assert!(TAPS_D * plane <= ROWS && sums.len() >= PRODUCTS_D * plane * matrix && first + LINE <= columns);
        let mut workspace = [0.0; ROWS * LINE];
        let mut line = [0.0; 27 * LINE];
        let part = workspace.as_mut_ptr();
        for c in 0..channels {
            for lane in (0..LINE).step_by(S::LANES) {
                let from = sums.as_ptr().wrapping_add(c * columns + first + lane);
                // SAFETY: each matrix has a row of whole lines for each channel; the workspaces are as large as asserted.
                unsafe {
                    for q in 0..plane {
                        let (from, to) = (from.wrapping_add(q * matrix), part.wrapping_add(q * S::LANES));
                        fold_line::<S, PRODUCTS_D, TAPS_D>(s, from, plane * matrix, to, plane * S::LANES);
                    }
                    for i in 0..TAPS_D {
                        let part = part.wrapping_add(i * plane * S::LANES);
                        for q in 0..PRODUCTS {
                            let at = part.wrapping_add(q * S::LANES);
                            fold_line::<S, PRODUCTS, TAPS>(s, at, PRODUCTS * S::LANES, at, PRODUCTS * S::LANES);
                        }
                        for j in 0..TAPS {
                            let to = line.as_mut_ptr().wrapping_add((i * TAPS + j) * TAPS * LINE + lane);
                            let from = part.wrapping_add(j * PRODUCTS * S::LANES);
                            fold_line::<S, PRODUCTS, TAPS>(s, from, S::LANES, to, LINE);
                        }
                    }
                }
            }
            for (filter, d_weight) in d_weight.chunks_exact_mut(channels * taps).enumerate() {
                for (tap, to) in d_weight[c * taps..][..taps].iter_mut().enumerate() {
                    *to += line[tap * LINE + filter];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;
    use crate::ops::conv::blocking::Grid;
    use crate::parallel::run_with;
    use crate::shape::Shape;
    use crate::testing::{assert_close, for_each_isa, random};
    use crate::window::Window;

    fn naive(work: &Work, x: &[f32], d_y: &[f32]) -> Vec<f64> {
        let Work { window, input, output, .. } = *work;
        let [_, kh, kw] = window.kernel;
        let taps = window.taps();
        let mut d_weight = vec![0.0; output.c * input.c * taps];
        for (pixel, d_y) in d_y.chunks_exact(output.c).enumerate() {
            let [ow, oh] = [pixel % output.w, pixel / output.w % output.h];
            let [od, n] = [pixel / (output.w * output.h) % output.d, pixel / output.spatial()];
            for tap in 0..taps {
                let at = |axis, out, tap| window.position(axis, out, tap, input.dims()[axis]);
                let position = (at(0, od, tap / (kh * kw)), at(1, oh, tap / kw % kh), at(2, ow, tap % kw));
                let (Some(d), Some(h), Some(w)) = position else { continue };
                let x = &x[(((n * input.d + d) * input.h + h) * input.w + w) * input.c..][..input.c];
                for (k, d_y) in d_y.iter().enumerate() {
                    for (c, x) in x.iter().enumerate() {
                        d_weight[(k * input.c + c) * taps + tap] += f64::from(*x) * f64::from(*d_y);
                    }
                }
            }
        }
        d_weight
    }

    /// Every kind of tiles, in one block and in several.
    fn check(input: Shape, filters: usize, kernel: [usize; 3], padding: [[usize; 2]; 3]) {
        let window = Window::new(kernel, [1; 3], [1; 3], padding).unwrap();
        let output = input.with_dims(window.output(input.dims()).unwrap()).with_channels(filters);
        let (x, d_y) = (random(1, input.len()), random(2, output.len()));
        let before = random(3, filters * input.c * window.taps());
        let work = Work { window, input, output, grid: Grid::dense(output), groups: 1, tile: (14, 2), threads: 1 };
        let mut want = naive(&work, &x, &d_y);
        want.iter_mut().zip(&before).for_each(|(want, &before)| *want += f64::from(before));
        let variants = Variant::all(&work);
        assert!(variants.len() > 1);
        for_each_isa(|isa| {
            for &variant in &variants {
                for several in [false, true] {
                    let mut bits = None;
                    for threads in [1, 2, 3] {
                        let work = Work { threads, tile: isa.tile(), ..work };
                        let mut gradient = Gradient::new(isa, work, variant);
                        if several {
                            gradient.block = gradient.tiling.tiles().div_ceil(3);
                        }
                        let mut scratch = Buffer::copy_of(&vec![f32::NAN; gradient.scratch()]);
                        let mut d_weight = before.clone();
                        run_with(threads, |pool| gradient.run(&x, &d_y, &mut d_weight, &mut scratch, pool));
                        assert_close(&d_weight, &want, 2e-5);
                        assert_eq!(*bits.get_or_insert(d_weight.clone()), d_weight, "{threads} threads");
                    }
                }
            }
        });
    }

    #[test]
    fn of_maps() {
        let same = [[0; 2], [1; 2], [1; 2]];
        check(Shape::new(2, [1, 9, 11], 20), 37, [1, 3, 3], same);
        check(Shape::new(3, [1, 5, 4], 1), 1, [1, 3, 3], same);
        check(Shape::new(1, [1, 17, 19], 64), 48, [1, 3, 3], [[0; 2]; 3]);
        check(Shape::new(1, [1, 6, 7], 15), 33, [1, 3, 3], [[0; 2], [2, 0], [0, 1]]);
        check(Shape::new(4, [1, 1, 1], 17), 16, [1, 3, 3], same);
    }

    #[test]
    fn of_volumes() {
        check(Shape::new(2, [5, 6, 7], 17), 32, [3; 3], [[1; 2]; 3]);
        check(Shape::new(1, [9, 5, 4], 3), 18, [3; 3], [[0, 1], [1, 0], [0; 2]]);
        check(Shape::new(1, [4, 9, 8], 40), 5, [3; 3], [[1; 2]; 3]);
        check(Shape::new(2, [1, 2, 3], 8), 9, [3; 3], [[1; 2]; 3]);
    }
}
