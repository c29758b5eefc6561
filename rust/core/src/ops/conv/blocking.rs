//! How a convolution is cut: into tasks for the threads, and each task into blocks that fit the caches.

use crate::shape::Shape;
use crate::window::Window;

/// Bytes of activations, and of weights, that should stay in the second-level cache (1 MB on the smaller machines).
const CACHED: usize = 384 << 10;
/// Bytes of weights beyond which the threads had better share them out than each read all.
const SHARED_WEIGHTS: usize = 768 << 10;
/// Copying an element costs as much as this many multiply-adds.
const COPY: f64 = 24.0;
/// Reading weights that do not stay cached takes as long as computing this many pixels from them.
const STREAM: f64 = 8.0;

/// Where the pixels of the output lie: everywhere, or at every so manieth place of a larger map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) start: usize,
    /// Elements between samples, planes, rows and pixels.
    pub(super) strides: [usize; 4],
}

impl Grid {
    /// All of a map.
    pub(super) fn dense(shape: Shape) -> Self {
        let row = shape.w * shape.c;
        Self { start: 0, strides: [shape.sample(), shape.h * row, row, shape.c] }
    }

    /// The place of a pixel.
    pub(super) fn at(&self, position: [usize; 4]) -> usize {
        self.start + (0..4).map(|axis| position[axis] * self.strides[axis]).sum::<usize>()
    }
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) window: Window,
    pub(super) input: Shape,
    pub(super) output: Shape,
    pub(super) grid: Grid,
    pub(super) groups: usize,
    /// Rows, and vectors of columns, of the register tile.
    pub(super) tile: (usize, usize),
    pub(super) threads: usize,
}

/// Where windows are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The input itself: no window reaches over its border, or only where whole taps can be left out.
    Input,
    /// A padded copy that each task makes of its part.
    Private,
    /// A padded copy of everything, made first.
    Shared,
}

/// The choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    pub(super) source: Source,
    /// Rows of the image that a register tile spans.
    pub(super) tile_rows: usize,
    /// Output planes, rows, columns and panels of a task.
    pub(super) planes: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) panels: usize,
    /// Output planes that are computed at once.
    pub(super) step: usize,
    pub(super) pixels_outside: bool,
    /// The longest piece of the reduction.
    pub(super) reduction: usize,
}

impl Blocking {
    /// The choice for `work`, whose weights have `panels` panels in all.
    pub(super) fn choose(work: &Work, panels: usize) -> Self {
        let Work { window, input, output, threads, .. } = *work;
        let tile_rows = work.tile_rows();
        // Tiles of several rows cannot leave out taps row by row: they read zeros.
        let in_place = window.padding[2] == [0; 2] && (tile_rows == 1 || !window.has_padding());
        let reduction = window.taps() * (input.c / work.groups);
        let weights = reduction * output.c * size_of::<f32>();
        let width = (output.w - 1) * window.stride[2] + window.extent(2);
        let line = width * input.c * size_of::<f32>();
        let whole = line * work.padded_rows(output.h) * ((output.d - 1) * window.stride[0] + window.extent(0));
        // What each core has to read, when the image is shared out and when the panels are.
        let steps = if in_place { 1 } else { output.d.div_ceil(threads) };
        let blocks = (whole / threads).div_ceil(CACHED).max(steps);
        let by_image = if weights > SHARED_WEIGHTS { weights * blocks } else { weights } + whole / threads;
        let passes = if whole > 2 * CACHED { panels.div_ceil(threads) } else { 1 };
        let by_panels = weights / threads + whole * passes;
        // A piece of a panel stays cached while all pixels of a block pass.
        let pieces = (reduction * output.c.div_ceil(panels) * size_of::<f32>()).div_ceil(CACHED);
        let reduction = reduction.div_ceil(pieces).next_multiple_of(4);
        if weights > SHARED_WEIGHTS && by_panels <= by_image && panels > 1 {
            let tasks = (4 * threads).min(panels);
            let panels = panels.div_ceil(tasks);
            let source = if in_place { Source::Input } else { Source::Shared };
            let (planes, rows, columns) = (output.d, output.h, output.w);
            let step = planes;
            return Self { source, tile_rows, planes, rows, columns, panels, step, pixels_outside: false, reduction };
        }
        let source = if in_place { Source::Input } else { Source::Private };
        let pixels_outside = weights <= CACHED;
        let task = Task { source, streams: !pixels_outside };
        let (planes, rows) = work.share_image(line, task, tile_rows);
        let columns = work.share_row(task, output.n * output.d.div_ceil(planes) * output.h.div_ceil(rows));
        Self { source, tile_rows, planes, rows, columns, panels, step: 1, pixels_outside, reduction }
    }

    /// Into how many pieces a reduction of `rows` is cut: each but the last leaves its sums in the output.
    pub(super) fn pieces(&self, rows: usize) -> usize {
        if self.pixels_outside { 1 } else { rows.div_ceil(self.reduction) }
    }
}

impl Work {
    /// Multiplications and additions, those with padding included.
    pub(super) fn flops(&self) -> u64 {
        let each = (self.window.taps() as u64).saturating_mul((self.input.c / self.groups) as u64);
        (self.output.len() as u64).saturating_mul(each).saturating_mul(2)
    }

    /// Whether every output sees one input, its own, and all of them form one row.
    pub(super) fn is_row(&self) -> bool {
        self.window.is_pointwise()
            && self.window.stride == [1; 3]
            && self.output.w == self.output.n * self.output.spatial()
    }

    /// The same work with the rows of a 2D image as planes of one row, which are the same memory: algorithms that go
    /// plane by plane, and keep as many as a window sees, then do so with rows.
    pub(super) fn rows_as_planes(mut self) -> Self {
        if self.input.d == 1 && self.window.kernel[0] == 1 && self.output.d == 1 {
            let Self { window, input, output, .. } = &mut self;
            for axes in [&mut window.kernel, &mut window.stride, &mut window.dilation] {
                axes.swap(0, 1);
            }
            window.padding.swap(0, 1);
            *input = input.with_dims([input.h, 1, input.w]);
            *output = output.with_dims([output.h, 1, output.w]);
        }
        self
    }

    /// Rows of the image that fit one register tile: 4, 2 or 1.
    fn tile_rows(&self) -> usize {
        if self.grid != Grid::dense(self.output) {
            return 1;
        }
        let fits = |rows: &usize| rows * self.output.w <= self.tile.0 && *rows <= self.output.h;
        [4, 2, 1].into_iter().find(fits).unwrap_or(1)
    }

    /// Padded input rows that `rows` output rows see.
    fn padded_rows(&self, rows: usize) -> usize {
        (rows - 1) * self.window.stride[1] + self.window.extent(1)
    }

    /// Output columns of a task: less than a row only where there are too few rows, as in the one long row of a
    /// pointwise convolution.
    fn share_row(&self, task: Task, tasks: usize) -> usize {
        let tiles = self.output.w.div_ceil(self.tile.0);
        if task.source != Source::Input || tasks >= 2 * self.threads || tiles < 2 * self.threads {
            return self.output.w;
        }
        let time = |parts: usize| {
            let pixels = tiles.div_ceil(parts) * self.tile.0;
            let bytes = pixels * self.window.stride[2] * self.input.c * size_of::<f32>();
            task.time(pixels as f64, bytes) * self.rounds(tasks * parts)
        };
        let parts = (1..=tiles.min(8 * self.threads)).min_by(|&a, &b| time(a).total_cmp(&time(b)));
        tiles.div_ceil(parts.unwrap_or(1)) * self.tile.0
    }

    /// Output planes and rows of a task, for threads that share out the image: the slowest thread should have done as
    /// early as possible, few rows should be copied twice, and weights read seldom.
    fn share_image(&self, line: usize, task: Task, tile_rows: usize) -> (usize, usize) {
        let Work { window, output, threads, .. } = *self;
        let kernel = (window.taps() * output.c) as f64 / self.groups as f64;
        let extent = window.extent(0);
        let mut best = (f64::INFINITY, (output.d, output.h));
        for plane_blocks in divisions(output.d, 4 * threads) {
            let planes = output.d.div_ceil(plane_blocks);
            for row_blocks in divisions(output.h, 32 * threads) {
                let rows = output.h.div_ceil(row_blocks).next_multiple_of(tile_rows).min(output.h);
                let tasks = output.n * output.d.div_ceil(planes) * output.h.div_ceil(rows);
                if tasks > 32 * threads * output.n {
                    continue;
                }
                let bytes = line * self.padded_rows(rows) * extent;
                let pixels = (planes * rows * output.w) as f64;
                let copied = self.padded_rows(rows) * ((planes - 1) * window.stride[0] + extent) * output.w;
                let copied = if task.source == Source::Private { copied as f64 * COPY / kernel } else { 0.0 };
                let cost = (task.time(pixels, bytes) + copied) * self.rounds(tasks);
                if cost < best.0 {
                    best = (cost, (planes, rows));
                }
            }
        }
        best.1
    }

    /// How many tasks the slowest thread has. Those beyond one per thread even out cores that are not equally fast.
    fn rounds(&self, tasks: usize) -> f64 {
        let noise = 1.0 + 0.04 * self.threads as f64 / tasks as f64;
        noise * tasks.div_ceil(self.threads) as f64
    }
}

/// What a task of a shared image does besides multiplying.
#[derive(Clone, Copy)]
struct Task {
    source: Source,
    /// Its weights do not stay cached from one task to the next; its pixels are read again for each of their panels.
    streams: bool,
}

impl Task {
    /// Time in pixels for as many, whose windows are in so many bytes.
    fn time(&self, pixels: f64, bytes: usize) -> f64 {
        let again = self.source == Source::Private || self.streams;
        let spill = if again && bytes > CACHED { 0.1 * (bytes as f64 / CACHED as f64).min(4.0) } else { 0.0 };
        pixels * (1.0 + spill) + if self.streams { STREAM } else { 0.0 }
    }
}

/// Numbers of parts, up to `most`, to cut `length` into.
fn divisions(length: usize, most: usize) -> impl Iterator<Item = usize> {
    1..=length.min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointwise(points: usize, c: usize, k: usize, threads: usize) -> Blocking {
        let window = Window { kernel: [1; 3], stride: [1; 3], dilation: [1; 3], padding: [[0; 2]; 3] };
        let [input, output] = [c, k].map(|channels| Shape::new(1, [1, 1, points], channels));
        let grid = Grid::dense(output);
        Blocking::choose(&Work { window, input, output, grid, groups: 1, tile: (14, 2), threads }, k.div_ceil(32))
    }

    #[test]
    fn weights_are_read_once_for_many_pixels() {
        for threads in [1, 2] {
            for [points, c, k] in [[196, 1024, 256], [196, 1024, 512], [196, 1024, 1024], [784, 512, 512]] {
                let blocking = pointwise(points, c, k, threads);
                let few = blocking.panels < k / 32 && blocking.panels <= k / 32 / threads;
                assert!(few || blocking.columns >= 98, "{c} to {k}, {threads} threads: {blocking:?}");
            }
        }
        // Those that stay cached do not matter: tasks are small, so that no core waits for the other.
        assert!(pointwise(3136, 64, 256, 2).columns < 3136 / 2);
    }
}
