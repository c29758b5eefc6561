//! Runs register tiles over a block of output pixels and a range of panels of output channels.

use std::ops::Range;

use crate::gemm::{self, Ahead, GROUPS, Next, Panels, Scaling, Segment, Stages, Tile};
use crate::ops::activation::Activation;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Up to a register tile's rows of neighbouring output pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pixels {
    /// Where the window of the first pixel of each group starts, counted from `Source::start`.
    pub(super) a: [isize; GROUPS],
    /// Where the first pixel's channels are in the output; the others follow every `Product::out_stride`.
    pub(super) out: usize,
    /// How many.
    pub(super) count: usize,
    /// Which of the lists of segments.
    pub(super) taps: usize,
}

/// The pixels of a block and the taps that they see.
#[derive(Default)]
pub(super) struct Block {
    pub(super) pixels: Vec<Pixels>,
    /// Lists of segments: different rows of an image may see different taps.
    pub(super) taps: Vec<Vec<Segment>>,
}

/// What is multiplied and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// The activations, or a padded copy of them.
    pub(super) a: *const f32,
    /// Elements between the windows of neighbouring pixels.
    pub(super) pixel_stride: usize,
    /// Channels of the input that one group of the convolution sees.
    pub(super) group_channels: usize,
    /// The panels of one group of the convolution.
    pub(super) panels: Panels,
    /// Packed weights, group after group.
    pub(super) weights: &'a [f32],
    /// One per padded column, group after group.
    pub(super) bias: &'a [f32],
    pub(super) scaling: Option<Scaling<'a>>,
    pub(super) out: *mut f32,
    /// Elements between neighbouring pixels of the output.
    pub(super) out_stride: usize,
    /// The first element of what is added, laid out as the output; it may be the output, if the reduction is in one piece.
    pub(super) residual: Option<*const f32>,
    pub(super) activation: Activation,
    /// Whether the pixels are the outer loop, not the panels.
    pub(super) pixels_outside: bool,
    /// Into how many pieces the reduction is cut. All but the last leave their sums in the output; scaling, residual and
    /// activation come after the last.
    pub(super) pieces: usize,
}

/// Computes the panels `range`, counted through all groups, of every pixel of `block`.
///
/// # Safety
/// Every pixel's window lies in `product.a`; nobody else touches these pixels' channels of `product.out`, which has
/// room for them. So has the residual, which is the output, with a reduction in one piece, or memory that nobody writes. The
/// panels are those of `isa`; weights, bias and scaling have all of them.
pub(super) unsafe fn run(isa: Isa, product: &Product<'_>, block: &Block, range: Range<usize>) {
    dispatch(isa, Run { product, block, range });
}

struct Run<'a> {
    product: &'a Product<'a>,
    block: &'a Block,
    range: Range<usize>,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { product, block, range } = self;
        let rows = product.panels.rows;
        let pieces = product.pieces;
        let piece = rows.div_ceil(pieces);
        let cut = |index: usize| {
            let range = index * piece..(index + 1) * piece;
            block.taps.iter().map(|segments| clip(segments, &range)).collect()
        };
        let taps: Vec<Vec<Vec<Segment>>> = (0..pieces).map(cut).collect();
        let (tiles, panels) = (block.pixels.len(), range.len());
        // Steps of the reduction that the tiles before each one, and all of them, have in a piece: some leave out taps.
        let steps: Vec<Vec<usize>> = taps
            .iter()
            .map(|taps| {
                let lengths: Vec<usize> = taps.iter().map(|list| list.iter().map(|part| part.length).sum()).collect();
                let sums = block.pixels.iter().scan(0, |sum, pixels| {
                    *sum += lengths[pixels.taps];
                    Some(*sum)
                });
                [0].into_iter().chain(sums).collect()
            })
            .collect();
        let (outer, inner) = if product.pixels_outside { (tiles, panels) } else { (panels * pieces, tiles) };
        // One loop nest for both orders: the tile is a lot of code, to be inlined once.
        for o in 0..outer {
            for i in 0..inner {
                let (tile, panel, index) = if product.pixels_outside { (o, i, 0) } else { (i, o / pieces, o % pieces) };
                let stages = Stages { resume: index > 0, suspend: index + 1 < pieces };
                let pixels = &block.pixels[tile];
                let number = range.start + panel;
                let ahead = match block.pixels.get(tile + 1) {
                    // The next pixels' windows: each panel fetches a part.
                    Some(next) if product.pixels_outside => {
                        let step = (4 * next.count).div_ceil(panels).min(Ahead::MOST);
                        let start = product.a.wrapping_offset(next.a[0]).wrapping_add(panel * rows * step / 4);
                        Ahead { start, step }
                    }
                    // The next piece of weights: each tile fetches as large a part as it has of this one's time. Where there are
                    // few tiles we wait for memory anyway, and the processor's own prefetcher has more requests open at once
                    // than we can have.
                    _ if !product.pixels_outside && tiles * Ahead::MOST >= 4 * product.panels.width() => {
                        let (before, all) = (steps[index][i], steps[index][tiles]);
                        let step = (4 * product.panels.width() * piece).div_ceil(all.max(1)).min(Ahead::MOST);
                        let start = product.packed(number, (index + 1) * piece).wrapping_add(before * step / 4);
                        Ahead { start, step }
                    }
                    _ => Ahead { start: product.packed(number, index * piece), step: 0 },
                };
                let next = match product.residual {
                    Some(residual) if !stages.suspend => {
                        let (tile, panel) = match (product.pixels_outside, i + 1 < inner) {
                            (true, true) => (tile, panel + 1),
                            (true, false) => (tile + 1, 0),
                            (false, true) => (tile + 1, panel),
                            (false, false) => (0, panel + 1),
                        };
                        product.next(residual, block.pixels.get(tile), range.start + panel)
                    }
                    _ => None,
                };
                let segments = &taps[index][pixels.taps];
                // SAFETY: the contract of the function `run`, which alone makes this kernel.
                unsafe { product.tile(s, pixels, segments, number, stages, (ahead, next)) };
            }
        }
    }
}

impl Product<'_> {
    /// Where row `row` of panel `index` is packed; the rows after the last are those of the next panel.
    #[inline(always)]
    fn packed(&self, index: usize, row: usize) -> *const f32 {
        let (group, panel) = (index / self.panels.count(), self.panels.panel(index % self.panels.count()));
        let start = group * self.panels.len() + panel.start + row * panel.vectors * self.panels.lanes();
        self.weights.as_ptr().wrapping_add(start)
    }

    /// The column of the output where panel `index` starts.
    fn column(&self, index: usize) -> usize {
        let (group, panel) = (index / self.panels.count(), self.panels.panel(index % self.panels.count()));
        group * self.panels.columns + panel.column
    }

    /// The residual of `pixels` for panel `index`.
    fn next(&self, residual: *const f32, pixels: Option<&Pixels>, index: usize) -> Option<Next> {
        let pixels = pixels?;
        let start = residual.wrapping_add(pixels.out + self.column(index));
        Some(Next { start, last: start.wrapping_add((pixels.count - 1) * self.out_stride) })
    }

    /// # Safety
    /// As for the function `run`.
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        s: S,
        pixels: &Pixels,
        segments: &[Segment],
        index: usize,
        stages: Stages,
        (ahead, next): (Ahead, Option<Next>),
    ) {
        let group = index / self.panels.count();
        let panel = self.panels.panel(index % self.panels.count());
        let column = group * self.panels.columns + panel.column;
        let out = pixels.out + column;
        let padded = group * self.panels.padded_columns() + panel.column;
        let a = pixels.a.map(|a| self.a.wrapping_offset(a + (group * self.group_channels) as isize));
        // SAFETY: the pixels lie in the output, so these offsets do.
        let tile = unsafe {
            Tile {
                a,
                row_stride: self.pixel_stride,
                b: self.weights.as_ptr().add(group * self.panels.len() + panel.start),
                segments,
                out: self.out.add(out),
                out_stride: self.out_stride,
                columns: panel.columns,
                bias: self.bias.as_ptr().add(padded),
                scaling: self.scaling.map(|scaling| scaling.at(padded)),
                residual: self.residual.map_or(std::ptr::null(), |residual| residual.add(out)),
                relu: self.activation == Activation::Relu,
                ahead,
                next,
                stages,
            }
        };
        // SAFETY: the caller's contract; the panels are those of this instruction set.
        unsafe { gemm::run(s, &tile, pixels.count, panel.vectors) };
        if !stages.suspend && !matches!(self.activation, Activation::Linear | Activation::Relu) {
            for pixel in 0..pixels.count {
                // SAFETY: these are the outputs just written.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(self.out.add(out + pixel * self.out_stride), panel.columns)
                };
                self.activation.apply_slice(s, row);
            }
        }
    }
}

/// The parts of `segments` whose rows of B lie in `rows`.
fn clip(segments: &[Segment], rows: &Range<usize>) -> Vec<Segment> {
    let parts = segments.iter().filter_map(|segment| {
        let start = segment.b.max(rows.start);
        let end = (segment.b + segment.length).min(rows.end);
        let a = segment.a + start as isize - segment.b as isize;
        (start < end).then(|| Segment { a, b: start, length: end - start })
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipped_segments_cover_the_same_rows() {
        let segments = [Segment { a: -3, b: 0, length: 10 }, Segment { a: 50, b: 20, length: 7 }];
        let mut covered = Vec::new();
        for start in (0..27).step_by(4) {
            for part in clip(&segments, &(start..start + 4)) {
                covered.extend((0..part.length).map(|i| (part.b + i, part.a + i as isize)));
            }
        }
        let want: Vec<_> = (0..10).map(|i| (i, i as isize - 3)).chain((20..27).map(|i| (i, i as isize + 30))).collect();
        assert_eq!(covered, want);
    }
}
