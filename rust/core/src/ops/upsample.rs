//! Enlargement by whole factors, and linear resizing by any factors, one per axis.
//!
//! - nearest: `y[o] = x[o / scale]`
//! - linear: `y[o]` lies between `x[i]` and `x[i + 1]` where the centre of output cell `o` falls, at
//!   `(o + 1/2) / scale - 1/2`, and is the nearest cell beyond the outermost centres. Bilinear in 2D, trilinear in 3D, as
//!   PyTorch's `interpolate(align_corners=False)` and Keras's `UpSampling` with `interpolation="bilinear"`.
//!
//! Both are linear along each axis, so that an input's gradient is the sum of the gradients of the outputs that it is
//! part of, each times the product of its weights along the axes: see `transposed_axes`. Nothing is kept.

use super::concat::Concat;
use super::conv::ConvOfMaps;
use super::lanes::{copy, load, store};
use super::transposed_axes::{Blend, TransposedAxes, readers};
use super::{Attributes, Backward, Compile, Forward, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::buffer::align_up;
use crate::parallel::SharedMut;
use crate::shape::{Dims3, Shape};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// An enlarged map.
#[derive(Clone, Copy, Debug)]
pub struct Upsample {
    scale: Dims3,
    mode: Mode,
}

/// How the values between are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
}

impl Upsample {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let mode = match attributes.text("mode")?.as_str() {
            "nearest" => Mode::Nearest,
            "linear" => Mode::Linear,
            other => return Err(format!("attribute \"mode\": expected \"nearest\" or \"linear\", got {other:?}")),
        };
        Ok(Box::new(Self { scale: attributes.sizes("scale")?, mode }))
    }
}

impl Op for Upsample {
    fn kind(&self) -> &'static str {
        "upsample"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let mut dims = inputs[0].dims();
        for (size, scale) in dims.iter_mut().zip(self.scale) {
            *size =
                size.checked_mul(scale).ok_or_else(|| format!("cannot enlarge {} by {:?}", inputs[0], self.scale))?;
        }
        Ok(inputs[0].with_dims(dims))
    }

    /// A convolution reads the small map; where a concatenation stands between, that is asked next.
    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        if self.mode != Mode::Nearest || slot > 0 {
            return None;
        }
        match Concat::enlarging(next, self.scale) {
            Some(concat) => Some(Box::new(concat)),
            None => ConvOfMaps::new(next, self.scale).map(|conv| Box::new(conv) as Box<dyn Op>),
        }
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.step(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(UpsampleTraining::new(self.step(context)))
    }
}

impl Upsample {
    fn step(&self, context: &Compile<'_>) -> UpsampleStep {
        if self.mode == Mode::Linear {
            return UpsampleStep::linear(context);
        }
        let sizes = context.output.dims();
        let cell = |axis: usize| (0..sizes[axis]).map(|o| Between::only(o / self.scale[axis])).collect();
        UpsampleStep::new(context, self.mode, [0, 1, 2].map(cell))
    }
}

/// A map of another size, bi- or trilinear: `floor(size * scale)` along each axis, any of them at least 1.
#[derive(Clone, Copy, Debug)]
pub struct Resize {
    scale: [f64; 3],
}

impl Resize {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { scale: attributes.factors("scale")? }))
    }
}

impl Op for Resize {
    fn kind(&self) -> &'static str {
        "resize"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let mut dims = inputs[0].dims();
        for (size, scale) in dims.iter_mut().zip(self.scale) {
            *size = scaled(*size, scale).ok_or_else(|| format!("cannot resize {} by {:?}", inputs[0], self.scale))?;
        }
        Ok(inputs[0].with_dims(dims))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(UpsampleStep::linear(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(UpsampleTraining::new(UpsampleStep::linear(context)))
    }
}

/// `size * scale` without its fraction, if that is a size.
pub(super) fn scaled(size: usize, scale: f64) -> Option<usize> {
    // Beyond this an axis is a typing error, as everywhere.
    const LIMIT: f64 = (1u64 << 32) as f64;
    let scaled = size as f64 * scale;
    (1.0..LIMIT).contains(&scaled).then_some(scaled as usize)
}

/// Two neighbours and the weight of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Between {
    cells: [usize; 2],
    weight: f32,
}

impl Between {
    fn only(cell: usize) -> Self {
        Self { cells: [cell; 2], weight: 0.0 }
    }

    /// The neighbours that count, with their weights.
    fn terms(self) -> impl Iterator<Item = (usize, f32)> {
        let terms = [(self.cells[0], 1.0 - self.weight), (self.cells[1], self.weight)];
        terms.into_iter().filter(|&(_, weight)| weight != 0.0)
    }
}

/// Where the centre of output cell `o` of `cells` falls among `size` input cells.
fn linear(o: usize, cells: usize, size: usize) -> Between {
    // (o + 1/2) * size / cells - 1/2 = ((2 o + 1) * size - cells) / (2 cells)
    let (twice, cell) = ((2 * o + 1) * size, 2 * cells);
    let Some(numerator) = twice.checked_sub(cells) else { return Between::only(0) };
    let first = numerator / cell;
    if first + 1 >= size {
        return Between::only(size - 1);
    }
    Between { cells: [first, first + 1], weight: ((numerator % cell) as f64 / cell as f64) as f32 }
}

struct UpsampleStep {
    isa: Isa,
    threads: usize,
    mode: Mode,
    input: Shape,
    output: Shape,
    /// For every output position of every axis.
    between: [Vec<Between>; 3],
}

impl UpsampleStep {
    fn new(context: &Compile<'_>, mode: Mode, between: [Vec<Between>; 3]) -> Self {
        let Compile { isa, threads, inputs, output, .. } = *context;
        Self { isa, threads, mode, input: inputs[0], output, between }
    }

    fn linear(context: &Compile<'_>) -> Self {
        let (from, to) = (context.inputs[0].dims(), context.output.dims());
        let between = |axis: usize| (0..to[axis]).map(|o| linear(o, to[axis], from[axis])).collect();
        Self::new(context, Mode::Linear, [0, 1, 2].map(between))
    }

    /// Elements of scratch memory of a thread: a row of the input's width.
    fn row(&self) -> usize {
        if self.mode == Mode::Linear { align_up(self.input.w * self.input.c) } else { 0 }
    }
}

impl Step for UpsampleStep {
    fn scratch(&self) -> usize {
        self.threads * self.row()
    }

    fn forward(&self, io: Io<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, input, output, .. } = *self;
        let (from, to) = (input.w * input.c, output.w * output.c);
        let rows = output.n * output.d * output.h;
        let height = (CHUNK / to).max(1);
        let x = io.inputs[0];
        let y = SharedMut::new(io.output);
        io.pool.for_each_scratch(rows.div_ceil(height), io.scratch, |task, scratch| {
            for row in task * height..rows.min((task + 1) * height) {
                // SAFETY: every output row belongs to one task.
                let y = unsafe { y.slice_mut(row * to..(row + 1) * to) };
                let (n, od, oh) = (row / output.h / output.d, row / output.h % output.d, row % output.h);
                let mut sources = [(0, 0.0); 4];
                let mut count = 0;
                for (d, weight_d) in self.between[0][od].terms() {
                    for (h, weight_h) in self.between[1][oh].terms() {
                        sources[count] = (((n * input.d + d) * input.h + h) * from, weight_d * weight_h);
                        count += 1;
                    }
                }
                let sources = &sources[..count];
                let row = match *sources {
                    [(start, _)] => &x[start..start + from],
                    _ => {
                        let row = &mut scratch[..from];
                        dispatch(isa, Blend { x, sources, y: row });
                        row
                    }
                };
                dispatch(isa, Stretch { x: row, between: &self.between[2], y, c: input.c });
            }
        });
    }

    fn algorithm(&self) -> String {
        format!("{:?}", self.mode).to_lowercase()
    }

    fn flops(&self) -> u64 {
        if self.mode == Mode::Linear { 14 * self.output.len() as u64 } else { 0 }
    }
}

struct UpsampleTraining {
    step: UpsampleStep,
    transposed: TransposedAxes,
}

impl UpsampleTraining {
    fn new(step: UpsampleStep) -> Self {
        let UpsampleStep { isa, threads, input, output, ref between, .. } = step;
        let along = |axis: usize| readers(input.dims()[axis], between[axis].iter().map(|between| between.terms()));
        let transposed = TransposedAxes { isa, threads, input, output, readers: [0, 1, 2].map(along) };
        Self { step, transposed }
    }
}

impl TrainStep for UpsampleTraining {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn scratch(&self) -> [usize; 2] {
        [self.step.scratch(), self.transposed.scratch()]
    }

    fn forward(&self, io: Forward<'_>) {
        self.step.forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        if let Some(d_x) = io.d_inputs[0].take() {
            self.transposed.run(io.d_output, d_x, io.scratch, io.pool);
        }
    }
}

/// Every point of a row made of one or two points of `x`.
struct Stretch<'a> {
    x: &'a [f32],
    between: &'a [Between],
    y: &'a mut [f32],
    c: usize,
}

impl Kernel for Stretch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, between, y, c } = self;
        for (y, between) in y.chunks_exact_mut(c).zip(between) {
            let [first, second] = between.cells.map(|cell| &x[cell * c..][..c]);
            if between.weight == 0.0 {
                copy(simd, first, y);
                continue;
            }
            let weights = [1.0 - between.weight, between.weight].map(|weight| simd.splat(weight));
            for (vector, y) in y.chunks_mut(S::LANES).enumerate() {
                let tail = (y.len() < S::LANES).then(|| simd.first(y.len()));
                // SAFETY: both points have the channels of `y`, which is a whole vector or as long as the tail.
                unsafe {
                    let first = load(simd, first.as_ptr().add(vector * S::LANES), tail);
                    let second = load(simd, second.as_ptr().add(vector * S::LANES), tail);
                    let sum = simd.fma(second, weights[1], simd.mul(first, weights[0]));
                    store(simd, y.as_mut_ptr(), sum, tail);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{CHANNELS, Trial, op, text, triple};
    use super::*;

    /// Weights of the input cells for every output cell of an axis, by the definition.
    fn naive_axis(scale: usize, size: usize, mode: &str) -> Vec<Vec<f64>> {
        let weights = |o: usize| {
            let mut weights = vec![0.0; size];
            if mode == "nearest" {
                weights[o / scale] = 1.0;
            } else {
                let centre = ((o as f64 + 0.5) / scale as f64 - 0.5).clamp(0.0, (size - 1) as f64);
                let first = centre.floor() as usize;
                weights[first] += 1.0 - centre.fract();
                weights[(first + 1).min(size - 1)] += centre.fract();
            }
            weights
        };
        (0..size * scale).map(weights).collect()
    }

    fn naive(x: &[f64], input: Shape, scale: Dims3, mode: &str) -> Vec<f64> {
        let [d, h, w] = [0, 1, 2].map(|axis| naive_axis(scale[axis], input.dims()[axis], mode));
        let mut y = Vec::new();
        for sample in x.chunks(input.sample()) {
            for weights in
                d.iter().flat_map(|d| h.iter().flat_map(|h| w.iter().map(|w| [d.clone(), h.clone(), w.clone()])))
            {
                let start = y.len();
                y.resize(start + input.c, 0.0);
                for (point, x) in sample.chunks(input.c).enumerate() {
                    let at = [point / input.w / input.h, point / input.w % input.h, point % input.w];
                    let weight: f64 = (0..3).map(|axis| weights[axis][at[axis]]).product();
                    y[start..].iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
                }
            }
        }
        y
    }

    #[test]
    fn all_scales_and_modes() {
        for mode in ["nearest", "linear"] {
            for scale in [[1, 2, 2], [2, 2, 2], [1, 1, 1], [3, 1, 4], [1, 5, 3]] {
                let upsample = || op("upsample", &[("scale", triple(scale)), ("mode", text(mode))]);
                for dims in [[1, 1, 1], [1, 3, 5], [3, 4, 2]] {
                    for c in CHANNELS {
                        let shape = Shape::new(2, dims, c);
                        let trial = Trial::new(upsample(), &[shape]);
                        trial.check(&naive(&trial.input(0), shape, scale, mode));
                    }
                }
            }
        }
    }

    #[test]
    fn gradients() {
        for mode in ["nearest", "linear"] {
            for scale in [[1, 2, 2], [2, 2, 2], [3, 1, 4]] {
                for (dims, c) in [([1, 1, 1], 1), ([1, 3, 5], 17), ([3, 4, 2], 70)] {
                    let upsample = op("upsample", &[("scale", triple(scale)), ("mode", text(mode))]);
                    Trial::new(upsample, &[Shape::new(2, dims, c)]).check_gradients(1e-1, 1e-4);
                }
            }
        }
    }

    #[test]
    fn sizes_of_any_ratio() {
        for scale in [[1.0, 1.5, 2.0], [1.0, 0.5, 1.34], [2.5, 1.0, 0.4], [1.0, 2.0, 2.0]] {
            let factors = Value::List(scale.iter().map(|&scale| Value::Float(scale)).collect());
            for c in [1, 3, 17] {
                let shape = Shape::new(2, [3, 5, 7], c);
                let trial = Trial::new(op("resize", &[("scale", factors.clone())]), &[shape]);
                let to = trial.output().dims();
                assert_eq!(to, std::array::from_fn(|axis| (shape.dims()[axis] as f64 * scale[axis]) as usize));
                let axes = [0, 1, 2].map(|axis| {
                    let (cells, size) = (to[axis], shape.dims()[axis]);
                    let weights = |o: usize| {
                        let at = ((o as f64 + 0.5) * size as f64 / cells as f64 - 0.5).clamp(0.0, (size - 1) as f64);
                        (at.floor() as usize, (at.floor() as usize + 1).min(size - 1), at.fract())
                    };
                    (0..cells).map(weights).collect::<Vec<_>>()
                });
                let x = trial.input(0);
                let mut want = Vec::new();
                for at in 0..trial.output().len() {
                    let (channel, point) = (at % c, at / c);
                    let (w, h) = (axes[2][point % to[2]], axes[1][point / to[2] % to[1]]);
                    let (d, n) = (axes[0][point / to[2] / to[1] % to[0]], point / to[2] / to[1] / to[0]);
                    let cell = |d: usize, h: usize, w: usize| x[(((n * 3 + d) * 5 + h) * 7 + w) * c + channel];
                    let row = |d: usize, h: usize| cell(d, h, w.0) * (1.0 - w.2) + cell(d, h, w.1) * w.2;
                    let plane = |d: usize| row(d, h.0) * (1.0 - h.2) + row(d, h.1) * h.2;
                    want.push(plane(d.0) * (1.0 - d.2) + plane(d.1) * d.2);
                }
                trial.check(&want);
                trial.check_gradients(1e-1, 1e-4);
            }
        }
        let none = op("resize", &[("scale", Value::List(vec![Value::Float(0.1); 3]))]);
        assert!(none.infer(&[Shape::new(1, [1, 4, 4], 1)]).unwrap_err().contains("resize"));
    }

    #[test]
    fn overflow_is_an_error() {
        let upsample = op("upsample", &[("scale", triple([1, 1 << 20, 1])), ("mode", text("nearest"))]);
        assert!(upsample.infer(&[Shape::new(1, [1, 1 << 50, 1], 1)]).is_err());
    }
}
