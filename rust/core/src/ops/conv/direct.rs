//! Direct convolution as a matrix product without a matrix: rows of A are windows of the activations themselves.
//!
//! In channels-last memory the taps of one kernel row are neighbours: for output pixel `x` the reduction over `(kw, c)`
//! is one run of `kw * c` floats, and the run of pixel `x + 1` starts `stride * c` further on. So a kernel of
//! `kd * kh` rows is a reduction of that many segments, and a 1x1 kernel one of a single segment. Where a row has a
//! dilation, or the channels are cut into groups, a segment is one tap.

use std::ops::Range;

use super::block::{self, Block, Pixels, Product};
use super::blocking::{Blocking, Source, Work};
use super::stage::Stage;
use super::weights::{Weights, pad};
use crate::buffer::align_up;
use crate::gemm::{GROUPS, Panels, Scaling, Segment, group_sizes};
use crate::ops::activation::Activation;
use crate::ops::{Io, Packed, Residual, Step};
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::Isa;

/// The compiled convolution.
pub(super) struct Direct {
    isa: Isa,
    work: Work,
    blocking: Blocking,
    panels: Panels,
    weights: Packed,
    bias: Packed,
    residual: bool,
    activation: Activation,
}

/// The part of the output that a task computes.
#[derive(Clone, Debug)]
struct Part {
    sample: usize,
    planes: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
    panels: Range<usize>,
}

/// Where the padded (or plain) input lies in memory while a block is computed.
#[derive(Clone, Copy)]
struct Layout {
    /// Planes are found at `plane % slots`.
    slots: usize,
    plane_stride: isize,
    row_stride: isize,
    /// Padded position of the first element.
    origin: [isize; 3],
}

impl Direct {
    pub(super) fn new(
        isa: Isa,
        work: Work,
        [weights, bias]: [Packed; 2],
        residual: bool,
        activation: Activation,
    ) -> Self {
        let panels = panels(isa, &work);
        let blocking = Blocking::choose(&work, work.groups * panels.count());
        Self { isa, work, blocking, panels, weights, bias, residual, activation }
    }

    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        weights.pack(self.panels, self.isa, self.weights.refill(), pool);
        pad(bias, self.panels, self.bias.refill());
    }

    /// The padded copy of the planes and rows that `part` sees; `slots` planes at a time.
    fn stage(&self, part: &Part, slots: usize) -> Stage {
        let Work { window, input, output, .. } = self.work;
        let first_row = part.rows.start * window.stride[1];
        let rows = (part.rows.len() - 1) * window.stride[1] + window.extent(1);
        let columns = (output.w - 1) * window.stride[2] + window.extent(2);
        Stage { slots, rows, first_row, columns, channels: input.c, first_channel: 0 }
    }

    /// Planes that are in memory at once.
    fn slots(&self, planes: usize) -> usize {
        (planes - 1) * self.work.window.stride[0] + self.work.window.extent(0)
    }

    fn whole(&self) -> Part {
        let Work { output, groups, .. } = self.work;
        Part {
            sample: 0,
            planes: 0..output.d,
            rows: 0..output.h,
            columns: 0..output.w,
            panels: 0..groups * self.panels.count(),
        }
    }

    fn parts(&self) -> [usize; 5] {
        let (output, blocking) = (self.work.output, &self.blocking);
        let panels = self.work.groups * self.panels.count();
        [
            panels.div_ceil(blocking.panels),
            output.n,
            output.d.div_ceil(blocking.planes),
            output.h.div_ceil(blocking.rows),
            output.w.div_ceil(blocking.columns),
        ]
    }

    /// The part of a task. Tasks that follow each other share weights.
    fn part(&self, task: usize) -> Part {
        let [_, samples, planes, rows, columns] = self.parts();
        let (output, blocking) = (self.work.output, &self.blocking);
        let mut rest = task;
        let mut next = |parts: usize, size: usize, end: usize| {
            let index = rest % parts;
            rest /= parts;
            index * size..end.min((index + 1) * size)
        };
        let columns = next(columns, blocking.columns, output.w);
        let rows = next(rows, blocking.rows, output.h);
        let planes = next(planes, blocking.planes, output.d);
        let sample = next(samples, 1, output.n).start;
        let panels = next(usize::MAX, blocking.panels, self.work.groups * self.panels.count());
        Part { sample, planes, rows, columns, panels }
    }

    /// The pixels of output planes `planes` and the rows of `part`, read from `layout`.
    fn block(&self, part: &Part, planes: Range<usize>, layout: &Layout) -> Block {
        let Work { window, input, output, grid, tile, .. } = self.work;
        let mut block = Block::default();
        let mut seen: Vec<[Range<usize>; 3]> = Vec::new();
        let tile_rows = self.blocking.tile_rows;
        let width = part.columns.len();
        let tiles = if tile_rows > 1 { 1 } else { width.div_ceil(tile.0) };
        for od in planes {
            let slotted = layout.slots < usize::MAX;
            let mut oh = part.rows.start;
            while oh < part.rows.end {
                // A tile spans 4, 2 or 1 rows.
                let left = part.rows.end - oh;
                let rows = [4, 2, 1].into_iter().find(|&rows| rows <= tile_rows.min(left)).unwrap_or(1);
                // Taps of planes in the padding are left out, those of rows only where a tile is one row: which rows a tile
                // spans depends on the task, and bits must not.
                let height = if tile_rows > 1 { 0..window.kernel[1] } else { window.valid_taps(1, oh, input.h) };
                let taps = [window.valid_taps(0, od, input.d), height];
                let plane = (od * window.stride[0]) as isize - layout.origin[0];
                let key = [taps[0].clone(), taps[1].clone(), if slotted { od..od + 1 } else { 0..0 }];
                let class = seen.iter().position(|other| *other == key).unwrap_or_else(|| {
                    block.taps.push(self.segments(layout, od, &taps));
                    seen.push(key);
                    seen.len() - 1
                });
                let start_of = |oh: usize, ow: usize| {
                    let row = (oh * window.stride[1]) as isize - layout.origin[1];
                    let column = (ow * window.stride[2]) as isize - layout.origin[2];
                    let plane = if slotted { 0 } else { plane * layout.plane_stride };
                    plane + row * layout.row_stride + column * input.c as isize
                };
                for index in 0..tiles {
                    let (first, end) = (index * width / tiles, (index + 1) * width / tiles);
                    let count = (end - first) * rows;
                    let first = part.columns.start + first;
                    let mut pixel = first;
                    let a: [isize; GROUPS] = group_sizes(count).map(|size| {
                        let start = start_of(oh + (pixel / output.w).min(rows - 1), pixel % output.w);
                        pixel += size;
                        start
                    });
                    let out = grid.at([part.sample, od, oh, first]);
                    block.pixels.push(Pixels { a, out, count, taps: class });
                }
                oh += rows;
            }
        }
        block
    }

    /// The segments of the kernel rows `taps` for output plane `od`.
    fn segments(&self, layout: &Layout, od: usize, taps: &[Range<usize>; 2]) -> Vec<Segment> {
        let Work { window, input, groups, .. } = self.work;
        let c = input.c / groups;
        let [_, height, width] = window.kernel;
        let merged = width == 1 || (window.dilation[2] == 1 && c == input.c);
        let (pieces, length) = if merged { (1, width * c) } else { (width, c) };
        let mut segments = Vec::with_capacity(taps[0].len() * taps[1].len() * pieces);
        for kd in taps[0].clone() {
            let plane = kd * window.dilation[0];
            let plane = if layout.slots < usize::MAX { (od * window.stride[0] + plane) % layout.slots } else { plane };
            for kh in taps[1].clone() {
                let row = plane as isize * layout.plane_stride + (kh * window.dilation[1]) as isize * layout.row_stride;
                for kw in 0..pieces {
                    let a = row + (kw * window.dilation[2] * input.c) as isize;
                    segments.push(Segment { a, b: ((kd * height + kh) * width + kw) * c, length });
                }
            }
        }
        segments
    }

    /// Computes `block` from `a`.
    ///
    /// # Safety
    /// `a` and `out` are as `block` expects them; nobody else writes this part.
    unsafe fn run(&self, part: &Part, block: &Block, a: *const f32, io: &Target<'_>) {
        let Work { window, input, grid, groups, .. } = self.work;
        let product = Product {
            a,
            pixel_stride: window.stride[2] * input.c,
            group_channels: input.c / groups,
            panels: self.panels,
            weights: &self.weights,
            bias: &self.bias,
            scaling: io.scaling.map(|scaling| scaling.of_sample(part.sample)),
            out: io.out.as_mut_ptr(),
            out_stride: grid.strides[3],
            residual: io.residual.map(|residual| residual.start(io.out.as_mut_ptr())),
            activation: self.activation,
            pixels_outside: self.blocking.pixels_outside,
            pieces: self.blocking.pieces(self.panels.rows),
        };
        // SAFETY: by this function's contract.
        unsafe { block::run(self.isa, &product, block, part.panels.clone()) };
    }

    /// One task that reads the input in place.
    fn run_in_place(&self, part: &Part, io: &Target<'_>) {
        let Work { window, input, .. } = self.work;
        let layout = Layout {
            slots: usize::MAX,
            plane_stride: (input.h * input.w * input.c) as isize,
            row_stride: (input.w * input.c) as isize,
            origin: window.padding.map(|pair| pair[0] as isize),
        };
        let block = self.block(part, part.planes.clone(), &layout);
        let sample = &io.input[part.sample * input.sample()..][..input.sample()];
        // SAFETY: taps in the padding are left out (there is none along the width), so every window lies in the
        // sample; parts of different tasks do not overlap.
        unsafe { self.run(part, &block, sample.as_ptr(), io) };
    }

    /// One task that copies its part of the input plane by plane, keeping as many as a window sees.
    fn run_private(&self, part: &Part, scratch: &mut [f32], io: &Target<'_>) {
        let Work { window, input, .. } = self.work;
        let stage = self.stage(part, self.slots(self.blocking.step));
        let sample = &io.input[part.sample * input.sample()..][..input.sample()];
        let layout = Layout {
            slots: stage.slots,
            plane_stride: stage.plane_stride() as isize,
            row_stride: stage.row_stride() as isize,
            origin: [0, stage.first_row as isize, 0],
        };
        let mut filled = part.planes.start * window.stride[0];
        for od in part.planes.clone() {
            let first = od * window.stride[0];
            for plane in filled.max(first)..first + stage.slots {
                stage.fill(scratch, sample, &input, &window, plane);
            }
            filled = first + stage.slots;
            let block = self.block(part, od..od + 1, &layout);
            // SAFETY: the planes that the windows see are in the scratch memory; parts of tasks do not overlap.
            unsafe { self.run(part, &block, scratch.as_ptr(), io) };
        }
    }

    /// One task that reads the shared copy.
    fn run_shared(&self, part: &Part, copy: &[f32], io: &Target<'_>) {
        let stage = self.shared_stage();
        let layout = Layout {
            slots: usize::MAX,
            plane_stride: stage.plane_stride() as isize,
            row_stride: stage.row_stride() as isize,
            origin: [0; 3],
        };
        let block = self.block(part, part.planes.clone(), &layout);
        let sample = &copy[part.sample * stage.len()..][..stage.len()];
        // SAFETY: the copy holds all that any window sees; parts of different tasks do not overlap.
        unsafe { self.run(part, &block, sample.as_ptr(), io) };
    }

    fn shared_stage(&self) -> Stage {
        self.stage(&self.whole(), self.slots(self.work.output.d))
    }
}

/// The panels of one group's weights.
pub(super) fn panels(isa: Isa, work: &Work) -> Panels {
    let reduction = work.window.taps() * (work.input.c / work.groups);
    Panels::new(isa, reduction, work.output.c / work.groups)
}

/// The memory of a forward step as its tasks share it.
struct Target<'a> {
    input: &'a [f32],
    scaling: Option<Scaling<'a>>,
    residual: Option<Residual<'a>>,
    out: SharedMut<'a>,
}

impl Step for Direct {
    fn scratch(&self) -> usize {
        match self.blocking.source {
            Source::Input => 0,
            Source::Shared => self.work.output.n * self.shared_stage().len(),
            Source::Private => {
                let part = Part { rows: 0..self.blocking.rows, ..self.whole() };
                self.work.threads * align_up(self.stage(&part, self.slots(self.blocking.step)).len())
            }
        }
    }

    fn in_place(&self) -> Option<usize> {
        (self.residual && self.blocking.pieces(self.panels.rows) == 1).then_some(1)
    }

    fn forward(&self, io: Io<'_>) {
        self.forward_scaled(io, None);
    }

    fn algorithm(&self) -> String {
        let Blocking { source, planes, rows, panels, .. } = self.blocking;
        format!("direct {source:?} {planes}x{rows} rows, {panels} panels").to_lowercase()
    }

    fn flops(&self) -> u64 {
        self.work.flops()
    }
}

impl Direct {
    /// As [`Step::forward`], with another factor and summand of each output channel: factors are `(n, k)`, summands `(k)`, with
    /// as many `k` as there are biases.
    pub(super) fn forward_scaled(&self, io: Io<'_>, scaling: Option<Scaling<'_>>) {
        let target = Target {
            input: io.inputs[0],
            scaling,
            residual: self.residual.then(|| Residual::new(&io, 1)),
            out: SharedMut::new(io.output),
        };
        let tasks = self.parts().iter().product();
        match self.blocking.source {
            Source::Input => io.pool.for_each(tasks, |task| self.run_in_place(&self.part(task), &target)),
            Source::Private => {
                let run = |task, scratch: &mut [f32]| self.run_private(&self.part(task), scratch, &target);
                io.pool.for_each_scratch(tasks, io.scratch, run);
            }
            Source::Shared => {
                let (stage, input) = (self.shared_stage(), self.work.input);
                let copy = &mut io.scratch[..self.work.output.n * stage.len()];
                io.pool.for_each_chunk(copy, stage.plane_stride(), |task, plane| {
                    let sample = &target.input[task / stage.slots * input.sample()..][..input.sample()];
                    let one = Stage { slots: 1, ..stage };
                    one.fill(plane, sample, &input, &self.work.window, task % stage.slots);
                });
                let copy: &[f32] = copy;
                io.pool.for_each(tasks, |task| self.run_shared(&self.part(task), copy, &target));
            }
        }
    }
}

/// The shape and window of a pointwise convolution as one row of pixels, which needs no more than one kind of tile.
pub(super) fn flatten(input: Shape, output: Shape) -> (Shape, Shape) {
    let row = |shape: Shape| Shape { n: 1, d: 1, h: 1, w: shape.n * shape.spatial(), c: shape.c };
    (row(input), row(output))
}
