//! Grouped convolution with few channels per group, as many in as out: 4, 8 and 16 in ResNeXt, 1 in depthwise layers.
//!
//! A vector of output channels covers several groups. Each of its lanes needs the channels of its own group, so for
//! each channel `i` of a group the input vector is permuted such that every lane holds channel `i` of its group; one
//! multiply-add then serves all groups of the vector. Where neighbouring outputs share inputs (three taps, stride 1),
//! a permuted vector is used for all three. So is there a channel of a group that is a whole vector, broadcast from memory.
//!
//! Channels of different vectors have nothing to do with each other: a task takes a few blocks of `LANES` channels and
//! copies them to a padded image in which the pixels of a block are neighbours.

use std::ops::Range;

use super::blocking::Work;
use super::stage::Stage;
use super::weights::Weights;
use crate::buffer::align_up;
use crate::ops::activation::Activation;
use crate::ops::{Io, Packed, Step};
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, Simd, dispatch, for_rows, opaque};
use crate::window::Window;

/// Bytes of a padded image that should stay cached.
const CACHED: usize = 384 << 10;
/// Channels of a task: enough that they are read from whole lines, several of them in a row.
const CHANNELS: usize = 128;

/// The compiled convolution.
pub(super) struct Grouped {
    isa: Isa,
    work: Work,
    /// `[block][kd][kh][channel in group][kw][lane]`
    weights: Packed,
    bias: Packed,
    residual: bool,
    activation: Activation,
    /// Output planes and rows of a task.
    planes: usize,
    rows: usize,
}

/// Whether this algorithm can compute `work`, and in less time than others: a group that is a whole vector needs no
/// permutation, and gains by inputs that are shared alone. Without groups there is Winograd's.
pub(super) fn supports(isa: Isa, work: &Work) -> bool {
    let (c, k) = (work.input.c / work.groups, work.output.c / work.groups);
    let lanes = isa.lanes();
    let few = c < lanes || c == lanes && work.groups > 1 && is_sliding(&work.window);
    c == k && few && lanes.is_multiple_of(c) && work.output.c.is_multiple_of(lanes)
}

/// Whether neighbouring outputs of a row share all but one of their inputs, in a way that there is a kernel for.
fn is_sliding(window: &Window) -> bool {
    window.kernel[2] == 3 && window.stride[2] == 1 && window.dilation[2] == 1
}

/// Packs weights for kernels of that width.
pub(super) fn pack(isa: Isa, width: usize, weights: &Weights<'_>, packed: &mut [f32], pool: &Pool) {
    let Weights { channels, taps, .. } = *weights;
    let lanes = isa.lanes();
    let filters = packed.len() / (channels * taps);
    let position = |k: usize, i: usize, tap: usize| {
        let (row, column) = (tap / width, tap % width);
        k * channels * taps + ((row * channels + i) * width + column) * lanes
    };
    weights.place([filters, lanes], isa, packed, position, pool);
}

impl Grouped {
    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        pack(self.isa, self.work.window.kernel[2], weights, self.weights.refill(), pool);
        self.bias.refill().copy_from_slice(bias);
    }

    pub(super) fn new(
        isa: Isa,
        work: Work,
        [weights, bias]: [Packed; 2],
        residual: bool,
        activation: Activation,
    ) -> Self {
        let work = work.rows_as_planes();
        let Work { output, threads, .. } = work;
        let mut grouped = Self { isa, work, weights, bias, residual, activation, planes: output.d, rows: output.h };
        while grouped.rows > 1 && grouped.stage(0..grouped.rows, 0).len() * size_of::<f32>() > CACHED {
            grouped.rows = grouped.rows.div_ceil(2);
        }
        let tasks = output.n * output.c.div_ceil(CHANNELS) * output.h.div_ceil(grouped.rows);
        grouped.planes = output.d.div_ceil((4 * threads).div_ceil(tasks.max(1)));
        grouped
    }

    fn parts(&self) -> [usize; 4] {
        let output = self.work.output;
        let (planes, rows) = (output.d.div_ceil(self.planes), output.h.div_ceil(self.rows));
        [output.n, planes, rows, output.c.div_ceil(CHANNELS)]
    }

    /// The padded image of output rows `rows` and the channels from `first_channel`.
    fn stage(&self, rows: Range<usize>, first_channel: usize) -> Stage {
        let Work { window, output, .. } = self.work;
        Stage {
            slots: window.extent(0),
            first_row: rows.start * window.stride[1],
            rows: (rows.len() - 1) * window.stride[1] + window.extent(1),
            columns: (output.w - 1) * window.stride[2] + window.extent(2),
            channels: CHANNELS.min(output.c - first_channel),
            first_channel,
        }
    }

    fn run(&self, task: usize, scratch: &mut [f32], x: &[f32], residual: Option<&[f32]>, out: &SharedMut<'_>) {
        let Work { window, input, output, groups, .. } = self.work;
        let lanes = self.isa.lanes();
        let [_, planes, parts, blocks] = self.parts();
        let (block, part, rest) = (task % blocks, task / blocks % parts, task / (blocks * parts));
        let (n, plane) = (rest / planes, rest % planes);
        let planes = plane * self.planes..output.d.min((plane + 1) * self.planes);
        let rows = part * self.rows..output.h.min((part + 1) * self.rows);
        let stage = self.stage(rows.clone(), block * CHANNELS);
        let sample = &x[n * input.sample()..][..input.sample()];
        let weights = window.taps() * input.c / groups * lanes;
        let mut filled = 0;
        for od in planes {
            let first = od * window.stride[0];
            for plane in filled.max(first)..first + stage.slots {
                stage.fill_lanes(self.isa, scratch, sample, &input, &window, plane);
            }
            filled = first + stage.slots;
            let row = (n * output.d + od) * output.h + rows.start;
            let start = row * output.w * output.c + stage.first_channel;
            let rows = Rows {
                grouped: self,
                stage: &stage,
                image: scratch,
                od,
                weights: &self.weights[stage.first_channel / lanes * weights..],
                bias: &self.bias[stage.first_channel..],
                // SAFETY: `start` is an element of the output.
                out: unsafe { out.as_mut_ptr().add(start) },
                residual: residual.map(|residual| &residual[start..]),
                rows: rows.clone(),
            };
            dispatch(self.isa, rows);
        }
    }
}

impl Step for Grouped {
    fn scratch(&self) -> usize {
        self.work.threads * align_up(self.stage(0..self.rows, 0).len())
    }

    fn forward(&self, io: Io<'_>) {
        let tasks = self.parts().iter().product();
        let (x, residual) = (io.inputs[0], self.residual.then(|| io.inputs[1]));
        let out = SharedMut::new(io.output);
        io.pool.for_each_scratch(tasks, io.scratch, |task, scratch| self.run(task, scratch, x, residual, &out));
    }

    fn algorithm(&self) -> String {
        format!("grouped {}x{} rows", self.planes, self.rows)
    }

    fn flops(&self) -> u64 {
        self.work.flops()
    }
}

/// One plane of a task; weights, bias, output and residual from the task's first channel on.
struct Rows<'a> {
    grouped: &'a Grouped,
    stage: &'a Stage,
    image: &'a [f32],
    od: usize,
    weights: &'a [f32],
    bias: &'a [f32],
    out: *mut f32,
    residual: Option<&'a [f32]>,
    rows: Range<usize>,
}

/// Pixels of a tile: accumulators, three weights, a permutation and an input fill the registers.
const fn tile<S: Simd>() -> usize {
    match S::TILE_ROWS {
        14.. => 14,
        6.. => 10,
        // Arrays of floats make long code.
        _ => 4,
    }
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Work { window, input, output, .. } = self.grouped.work;
        let channels = input.c / self.grouped.work.groups;
        let lanes: [S::I; 16] = std::array::from_fn(|i| s.broadcast_within(channels, i % channels));
        let depth = window.valid_taps(0, self.od, input.d);
        let tiles = output.w.div_ceil(tile::<S>());
        for oh in self.rows.clone() {
            let height = window.valid_taps(1, oh, input.h);
            // Blocks inside rows: they write the same lines of the output, or neighbours of them.
            for index in 0..tiles * (self.stage.channels / S::LANES) {
                let (block, index) = (index / tiles, index % tiles);
                let (first, end) = (index * output.w / tiles, (index + 1) * output.w / tiles);
                let lanes = &lanes[..channels];
                let pixels = Pixels { rows: &self, lanes, depth: &depth, height: &height, oh, first, block };
                macro_rules! choose {
                    ($($m:literal)*) => {
                        match end - first {
                            $($m if $m <= tile::<S>() && channels == S::LANES => pixels.compute::<S, $m, true>(s),)*
                            $($m if $m <= tile::<S>() => pixels.compute::<S, $m, false>(s),)*
                            count => unreachable!("{count} pixels"),
                        }
                    };
                }
                choose!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                let activation = self.grouped.activation;
                if !matches!(activation, Activation::Linear | Activation::Relu) {
                    for ow in first..end {
                        let at = ((oh - self.rows.start) * output.w + ow) * output.c + block * S::LANES;
                        // SAFETY: written just now.
                        let y = unsafe { std::slice::from_raw_parts_mut(self.out.add(at), S::LANES) };
                        activation.apply_slice(s, y);
                    }
                }
            }
        }
    }
}

/// Neighbouring outputs of a row.
struct Pixels<'a, I> {
    rows: &'a Rows<'a>,
    lanes: &'a [I],
    depth: &'a Range<usize>,
    height: &'a Range<usize>,
    oh: usize,
    first: usize,
    /// Which vector of the task's channels.
    block: usize,
}

impl<I: Copy> Pixels<'_, I> {
    /// `WHOLE`: a vector is one group, and each channel is broadcast from memory.
    #[inline(always)]
    fn compute<S: Simd<I = I>, const M: usize, const WHOLE: bool>(&self, s: S) {
        let Rows { grouped, stage, image, weights, bias, .. } = *self.rows;
        let Work { window, output, .. } = grouped.work;
        let width = window.kernel[2];
        let sliding = WHOLE || is_sliding(&window);
        let (step, apart) = (window.stride[2] * S::LANES, window.dilation[2] * S::LANES);
        let block = self.block;
        // SAFETY: a block has LANES biases.
        let mut sums = [unsafe { s.load(bias.as_ptr().add(block * S::LANES)) }; M];
        for kd in self.depth.clone() {
            let slot = (self.rows.od * window.stride[0] + kd * window.dilation[0]) % stage.slots;
            for kh in self.height.clone() {
                let row = self.oh * window.stride[1] + kh * window.dilation[1] - stage.first_row;
                let start = slot * stage.plane_stride() + row * stage.row_stride();
                let start = start + block * stage.columns * S::LANES + self.first * step;
                debug_assert!(start + (M - 1) * step + (width - 1) * apart + S::LANES <= image.len());
                let row = (block * window.kernel[0] + kd) * window.kernel[1] + kh;
                let tap = row * self.lanes.len() * width * S::LANES;
                // SAFETY: the image holds the windows of all pixels, the weights all taps and channels.
                unsafe {
                    let x = image.as_ptr().add(start);
                    let mut w = weights.as_ptr().add(tap);
                    for (channel, &lanes) in self.lanes.iter().enumerate() {
                        let x = opaque(if WHOLE { x.add(channel) } else { x });
                        if sliding {
                            let w3: [S::V; 3] = std::array::from_fn(|kw| s.load(w.add(kw * S::LANES)));
                            for_rows!(M + 2, i, {
                                let x = x.add(i * S::LANES);
                                let v = if WHOLE { s.splat(*x) } else { s.permute(s.load(x), lanes) };
                                // Output o sees input o first, then o + 1, o + 2, whichever tile it is in.
                                for kw in 0..3 {
                                    let o = i.wrapping_sub(kw);
                                    if o < M {
                                        sums[o] = s.fma(v, w3[kw], sums[o]);
                                    }
                                }
                            });
                        } else {
                            for kw in 0..width {
                                let w = s.load(w.add(kw * S::LANES));
                                for_rows!(M, i, {
                                    let v = s.permute(s.load(x.add(i * step + kw * apart)), lanes);
                                    sums[i] = s.fma(v, w, sums[i]);
                                });
                            }
                        }
                        w = w.add(width * S::LANES);
                    }
                }
            }
        }
        let row = self.oh - self.rows.rows.start;
        for_rows!(M, i, {
            let at = (row * output.w + self.first + i) * output.c + block * S::LANES;
            let mut y = sums[i];
            if let Some(residual) = self.rows.residual {
                debug_assert!(at + S::LANES <= residual.len());
                // SAFETY: the residual has the layout of the output.
                y = s.add(y, unsafe { s.load(residual.as_ptr().add(at)) });
            }
            if grouped.activation == Activation::Relu {
                y = s.max(s.splat(0.0), y);
            }
            // SAFETY: the block's channels of this pixel, which no other task writes.
            unsafe { s.store(self.rows.out.add(at), y) };
        });
    }
}
