//! Winograd's minimal filtering for kernels of 3 or 4 taps along each axis and stride 1: fewer multiplications.
//!
//! The output is cut into tiles of 2 to 6 along each axis. With the transforms of file `transform` along every axis,
//!
//! `V[point] (tiles, c) = Bᵀ x B`, `M[product] (tiles, k) = V[point] U[product]`, `y = Aᵀ M A`
//!
//! where the transformed weights U, `(products, c, k)`, are made at compile time. Each product is of a point of its own,
//! but for enlarged maps. Tiles of 4 x 4 have 6 x 6 products: 2.25 multiplications for an output instead of 9; tiles of
//! 2 x 4 x 4 have 4 x 6 x 6, 4.5 instead of 27. What that costs is the transforms, and more bytes of weights.
//!
//! | file | holds |
//! |---|---|
//! | `transform` | the transforms of one axis |
//! | `tiles` | those of all axes, from activations to V and from M to activations |
//! | `weights` | U |
//! | `gradient` | the gradient of the weights |
//! | `choice` | whether it pays, and which tiles |

mod choice;
mod gradient;
mod tiles;
mod transform;
mod weights;

use std::ops::Range;

pub use choice::Precision;
pub(super) use choice::{Variant, choose, choose_enlarging, choose_for_gradient, choose_for_training, direct, stream};
pub(super) use gradient::Gradient;
use tiles::{Gather, Scatter, Slots, Source, Tiling};

use super::blocking::Work;
use super::weights::{Weights, pad};
use crate::buffer::{LINE, align_up};
use crate::gemm::{self, Ahead, GROUPS, Panels, Segment, Stages, Tile, group_sizes};
use crate::ops::activation::Activation;
use crate::ops::{Io, Packed, Residual, Step};
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, Simd, dispatch, outlined};

/// Floats of V and M that a thread works on: half of a second-level cache of 2 MB.
const BLOCK: usize = (1 << 20) / size_of::<f32>();
/// Floats of transformed weights that are read anew for each block without loss: they stay in that cache.
const RESIDENT: usize = (3 << 18) / size_of::<f32>();
/// Floats of V and M where the threads share them.
const SHARED: usize = (8 << 20) / size_of::<f32>();

/// The products start from nothing: the bias is added to the outputs.
static ZEROS: [f32; 64] = [0.0; 64];

/// `count` or fewer: whole register tiles of `rows`, where there is room for one.
fn whole(count: usize, rows: usize) -> usize {
    if count < rows { count } else { count / rows * rows }
}

/// The compiled convolution.
pub(super) struct Winograd {
    isa: Isa,
    work: Work,
    tiling: Tiling,
    /// Channels of the maps that are its input, side by side.
    sources: Vec<usize>,
    panels: Panels,
    /// Tiles of a block.
    block: usize,
    /// Whether the threads share each block, slot by slot, so that each reads its part of the weights only.
    shared: bool,
    weights: Packed,
    bias: Packed,
    residual: bool,
    activation: Activation,
}

/// The panels of one slot.
pub(super) fn panels(isa: Isa, work: &Work) -> Panels {
    Panels::new(isa, work.input.c, work.output.c)
}

/// Writes the transformed weights.
pub(super) fn pack(weights: &Weights<'_>, variant: Variant, layout: (Isa, Panels), packed: &mut [f32], pool: &Pool) {
    weights::pack(weights, variant.axes(), layout, packed, pool);
}

/// Elements of the transformed weights.
pub(super) fn packed_len(isa: Isa, work: &Work, variant: Variant) -> usize {
    variant.axes().iter().map(|axis| axis.products()).product::<usize>() * panels(isa, work).len()
}

impl Winograd {
    pub(super) fn new(
        isa: Isa,
        work: Work,
        variant: Variant,
        sources: &[usize],
        [weights, bias]: [Packed; 2],
        residual: bool,
        activation: Activation,
    ) -> Self {
        let Work { window, input, output, threads, .. } = work;
        let tiling = Tiling { axes: variant.axes(), input, output, before: window.padding.map(|pair| pair[0]) };
        let panels = panels(isa, &work);
        let sources = sources.to_vec();
        let mut new =
            Self { isa, work, tiling, sources, panels, block: 1, shared: false, weights, bias, residual, activation };
        let (tiles, products) = (tiling.tiles(), tiling.products());
        let v = tiling.points() * new.row_v();
        let rows = isa.tile().0;
        let weights = products * panels.len();
        // As many blocks for each thread as for the others.
        let dealt = |most: usize| tiles.div_ceil(tiles.div_ceil(most.max(1)).next_multiple_of(threads));
        // Weights that stay cached may be read for every register tile, others as seldom as V and M allow.
        let most = BLOCK / (v + products * new.row_m());
        let private = dealt(if weights > RESIDENT { whole(most, rows) } else { rows.min(most) });
        // Large weights had better be read once, even if V and M are large then.
        let each = v + products * panels.padded_columns();
        let shared = tiles.div_ceil(tiles.div_ceil((SHARED.max(weights / 2) / each).max(rows)));
        // What moves between memory and cores: the weights for every block, and V and M where threads share them.
        let by_private = weights * tiles.div_ceil(private);
        let by_shared = weights * tiles.div_ceil(shared) + 2 * each * tiles;
        new.shared = threads > 1 && weights > RESIDENT && by_shared < by_private;
        new.block = if new.shared { shared } else { private };
        new
    }

    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        weights::pack(weights, self.tiling.axes, (self.isa, self.panels), self.weights.refill(), pool);
        pad(bias, self.panels, self.bias.refill());
    }

    /// Floats between the rows of V and of M: whole vectors.
    fn row_v(&self) -> usize {
        let lanes = self.isa.lanes();
        let ends = self.firsts().zip(&self.sources).map(|(first, &channels)| first + channels.next_multiple_of(lanes));
        ends.max().unwrap_or(0).next_multiple_of(lanes)
    }

    /// The first channel of each source.
    fn firsts(&self) -> impl Iterator<Item = usize> {
        self.sources.iter().scan(0, |end, &channels| {
            *end += channels;
            Some(*end - channels)
        })
    }

    /// A thread that multiplies alone transforms the products of one panel before it makes those of the next.
    fn row_m(&self) -> usize {
        let columns = self.panels.padded_columns();
        if self.shared { columns } else { columns.min(self.panels.width()) }
    }

    /// Floats between slots: an odd number of lines, or the slots of a row would share few sets of the cache.
    fn slot(&self, row: usize) -> usize {
        ((self.block * row).div_ceil(LINE) | 1) * LINE
    }

    /// V, M and the workspaces in scratch memory: their lengths.
    fn parts(&self) -> [usize; 3] {
        let (points, products) = (self.tiling.points(), self.tiling.products());
        [points * self.slot(self.row_v()), products * self.slot(self.row_m()), align_up(products * self.isa.lanes())]
    }

    fn slots(&self, start: *mut f32) -> [Slots; 2] {
        let [v, ..] = self.parts();
        let (row_v, row_m) = (self.row_v(), self.row_m());
        [
            Slots { start, slot: self.slot(row_v), row: row_v },
            Slots { start: start.wrapping_add(v), slot: self.slot(row_m), row: row_m },
        ]
    }

    /// The tiles of a block.
    fn tiles(&self, block: usize) -> Range<usize> {
        let tiles = self.tiling.tiles();
        let blocks = self.blocks();
        block * tiles / blocks..(block + 1) * tiles / blocks
    }

    fn blocks(&self) -> usize {
        self.tiling.tiles().div_ceil(self.block)
    }

    fn gather<'a>(&'a self, io: &'a Target<'_>, tiles: Range<usize>, v: Slots, workspace: *mut f32) -> Gather<'a> {
        Gather { tiling: &self.tiling, sources: &io.sources, tiles, v, workspace }
    }

    fn multiply(&self, [v, m]: [Slots; 2], rows: usize, products: Range<usize>, panels: Range<usize>) -> Multiply<'_> {
        let Self { tiling, panels: matrix, weights, .. } = self;
        Multiply { tiling, v, m, rows, products, indices: panels, matrix, weights }
    }

    fn scatter<'a>(&'a self, io: &Target<'a>, tiles: Range<usize>, m: Slots, workspace: *mut f32) -> Scatter<'a> {
        let Self { tiling, bias, activation, .. } = self;
        Scatter {
            tiling,
            tiles,
            channels: 0..tiling.output.c,
            m,
            workspace,
            bias,
            residual: io.residual.map(|residual| residual.start(io.y.as_mut_ptr())),
            activation: *activation,
            y: io.y.as_mut_ptr(),
        }
    }

    /// Each task computes a block of its own from beginning to end.
    fn run_private(&self, io: &Target<'_>, scratch: &mut [f32], pool: &Pool) {
        let [v, m, _] = self.parts();
        pool.for_each_scratch(self.blocks(), scratch, |block, scratch| {
            let tiles = self.tiles(block);
            let slots = self.slots(scratch.as_mut_ptr());
            let workspace = scratch[v + m..].as_mut_ptr();
            dispatch(
                self.isa,
                Fused {
                    gather: self.gather(io, tiles.clone(), slots[0], workspace),
                    multiply: self.multiply(slots, tiles.len(), 0..self.tiling.products(), 0..self.panels.count()),
                    scatter: self.scatter(io, tiles, slots[1], workspace),
                },
            );
        });
    }

    /// All threads transform a block, then multiply the slots among them, then transform it back.
    fn run_shared(&self, io: &Target<'_>, scratch: &mut [f32], pool: &Pool) {
        /// Tiles that are worth a task.
        const LEAST: usize = 4;
        let [v, m, _] = self.parts();
        let (matrices, workspaces) = scratch.split_at_mut(v + m);
        let matrices = SharedMut::new(matrices);
        let pieces = if self.tiling.products() >= 4 * pool.threads() { 1 } else { self.panels.count() };
        for block in 0..self.blocks() {
            let tiles = self.tiles(block);
            let tasks = tiles.len().div_ceil(LEAST);
            let part = |task: usize| {
                let (first, end) = (task * tiles.len() / tasks, (task + 1) * tiles.len() / tasks);
                (first, tiles.start + first..tiles.start + end)
            };
            let at = |slots: Slots, row: usize| Slots { start: slots.start.wrapping_add(row * slots.row), ..slots };
            pool.for_each_scratch(tasks, workspaces, |task, workspace| {
                let (row, tiles) = part(task);
                let slots = self.slots(matrices.as_mut_ptr());
                dispatch(self.isa, self.gather(io, tiles, at(slots[0], row), workspace.as_mut_ptr()));
            });
            pool.for_each(self.tiling.products() * pieces, |task| {
                let (product, piece) = (task / pieces, task % pieces);
                let panels = piece * self.panels.count() / pieces..(piece + 1) * self.panels.count() / pieces;
                let slots = self.slots(matrices.as_mut_ptr());
                dispatch(self.isa, self.multiply(slots, tiles.len(), product..product + 1, panels));
            });
            pool.for_each_scratch(tasks, workspaces, |task, workspace| {
                let (row, tiles) = part(task);
                let slots = self.slots(matrices.as_mut_ptr());
                dispatch(self.isa, self.scatter(io, tiles, at(slots[1], row), workspace.as_mut_ptr()));
            });
        }
    }
}

/// The memory of a forward step as its tasks share it.
struct Target<'a> {
    sources: Vec<Source<'a>>,
    residual: Option<Residual<'a>>,
    y: SharedMut<'a>,
}

/// `M[product] = V[point] U[product]` for some products and panels.
struct Multiply<'a> {
    tiling: &'a Tiling,
    v: Slots,
    m: Slots,
    rows: usize,
    products: Range<usize>,
    indices: Range<usize>,
    matrix: &'a Panels,
    weights: &'a [f32],
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { v, m, rows, matrix, .. } = self;
        let segments = [Segment { a: 0, b: 0, length: matrix.rows }];
        let tiles = rows.div_ceil(S::TILE_ROWS);
        let start = |index: usize, product: usize| {
            self.weights.as_ptr().wrapping_add(weights::start(matrix, self.tiling.products(), index, product))
        };
        for product in self.products.clone() {
            let point = self.tiling.point(product);
            for index in self.indices.clone() {
                let panel = matrix.panel(index);
                let width = panel.vectors * S::LANES;
                let b = start(index, product);
                // Each tile prefetches a part of the panel that is multiplied next.
                let (next_index, next_product) = match index + 1 {
                    next if next < self.indices.end => (next, product),
                    _ => (self.indices.start, product + 1),
                };
                let next = start(next_index, next_product);
                let step = (4 * width).div_ceil(tiles).min(Ahead::MOST);
                for tile in 0..tiles {
                    let (first, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                    let mut row = first;
                    let a: [*const f32; GROUPS] = group_sizes(end - first).map(|size| {
                        let start = v.start.wrapping_add(point * v.slot + row * v.row);
                        row += size;
                        start.cast_const()
                    });
                    let tile = Tile {
                        a,
                        row_stride: v.row,
                        b,
                        segments: &segments,
                        out: m.start.wrapping_add(product * m.slot + first * m.row + panel.column),
                        out_stride: m.row,
                        columns: width,
                        bias: ZEROS.as_ptr(),
                        scaling: None,
                        residual: std::ptr::null(),
                        relu: false,
                        ahead: Ahead { start: next.wrapping_add(tile * matrix.rows * step / 4), step },
                        next: None,
                        stages: Stages { resume: false, suspend: false },
                    };
                    // SAFETY: V and M have `rows` rows in every slot, of whole vectors; the panel is one of the
                    // product's matrix; nobody else writes this part of M.
                    unsafe { gemm::run(s, &tile, end - first, panel.vectors) };
                }
            }
        }
    }
}

/// A block from beginning to end, panel after panel.
struct Fused<'a> {
    gather: Gather<'a>,
    multiply: Multiply<'a>,
    scatter: Scatter<'a>,
}

impl Kernel for Fused<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gather, multiply, scatter } = self;
        // Compiled once, for this and for threads that share a block.
        outlined(s, gather);
        for index in multiply.indices.clone() {
            let panel = multiply.matrix.panel(index);
            let m = Slots { start: multiply.m.start.wrapping_sub(panel.column), ..multiply.m };
            Multiply { m, indices: index..index + 1, products: multiply.products.clone(), ..multiply }.run(s);
            let channels = panel.column..panel.column + panel.columns;
            outlined(s, Scatter { channels, tiles: scatter.tiles.clone(), ..scatter });
        }
    }
}

impl Step for Winograd {
    fn scratch(&self) -> usize {
        let [v, m, workspace] = self.parts();
        let threads = self.work.threads;
        if self.shared { v + m + threads * workspace } else { threads * (v + m + workspace) }
    }

    fn in_place(&self) -> Option<usize> {
        self.residual.then_some(self.sources.len())
    }

    fn forward(&self, io: Io<'_>) {
        let maps = io.inputs.iter().zip(&self.sources).zip(self.firsts());
        let sources: Vec<Source<'_>> = maps.map(|((&x, &channels), first)| Source { x, channels, first }).collect();
        let residual = self.residual.then(|| Residual::new(&io, sources.len()));
        let target = Target { sources, residual, y: SharedMut::new(io.output) };
        let scratch = &mut io.scratch[..self.scratch()];
        if self.shared {
            self.run_shared(&target, scratch, io.pool)
        } else {
            self.run_private(&target, scratch, io.pool)
        }
    }

    fn algorithm(&self) -> String {
        let [d, h, w] = self.tiling.axes.map(|axis| axis.outputs());
        let how = if self.shared { "shared" } else { "private" };
        format!("winograd {d}x{h}x{w}, {how} blocks of {} tiles", self.block)
    }

    fn flops(&self) -> u64 {
        self.work.flops()
    }
}
