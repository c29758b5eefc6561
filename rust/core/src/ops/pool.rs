//! The walk of a window over a map that maximum and average pooling share.
//!
//! Every output row is computed on its own, point by point, up to four vectors of channels at a time. Tasks are blocks
//! of rows, numbered so that a thread goes through the depth first: the planes of a 3D map that neighbouring outputs
//! share are then still in its cache.

use std::marker::PhantomData;

use super::Attributes;
use super::fold::Fold;
use super::lanes::{load, store};
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::window::{AXES, Window};

/// Reads kernel, stride, padding, and dilation where there is one.
///
/// # Errors
/// Padding as wide as the window, of which an output could see nothing else.
pub(super) fn parse_window(attributes: &mut Attributes, dilation: [usize; 3]) -> Result<Window, String> {
    let (kernel, stride) = (attributes.sizes("kernel")?, attributes.sizes("stride")?);
    let window = Window::new(kernel, stride, dilation, attributes.pairs("padding")?)?;
    if kernel.iter().try_fold(1, |taps: u32, &k| taps.checked_mul(u32::try_from(k).ok()?)).is_none() {
        return Err(format!("a window of {kernel:?} has too many taps"));
    }
    for (axis, name) in AXES.iter().enumerate() {
        let (padding, extent) = (window.padding[axis], window.extent(axis));
        if padding.iter().any(|&side| side >= extent) {
            let [before, after] = padding;
            return Err(format!(
                "padding of the {name} axis must be less than the window's {extent} positions, got {before} and {after}"
            ));
        }
    }
    Ok(window)
}

/// A pooling of maps of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pooling {
    pub(super) isa: Isa,
    pub(super) window: Window,
    pub(super) input: Shape,
    pub(super) output: Shape,
    /// Divide by the number of taps: of all of them, or of those that see the input.
    pub(super) mean: Option<Divisor>,
}

/// What an average divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divisor {
    /// All taps; padding counts as zeros.
    Taps,
    /// The taps that see the input.
    ValidTaps,
}

/// What is remembered of a window besides its value.
pub(super) trait Memory: Copy + Sync {
    /// For every lane of a vector.
    type Lanes<S: Simd>: Copy;

    /// Before any value; `tap` is the first that sees the input.
    fn start<S: Simd>(simd: S, tap: usize) -> Self::Lanes<S>;

    /// After the values `x`, which `tap` sees.
    fn see<S: Simd>(simd: S, lanes: Self::Lanes<S>, x: S::V, tap: usize) -> Self::Lanes<S>;

    /// Keeps the first `count` lanes, which belong to the outputs from element `at` on.
    ///
    /// # Safety
    /// The outputs exist, and belong to the calling task.
    unsafe fn keep<S: Simd>(self, simd: S, lanes: Self::Lanes<S>, at: usize, count: usize);
}

/// Nothing is remembered.
impl Memory for () {
    type Lanes<S: Simd> = ();

    #[inline(always)]
    fn start<S: Simd>(_: S, _: usize) {}

    #[inline(always)]
    fn see<S: Simd>(_: S, (): (), _: S::V, _: usize) {}

    #[inline(always)]
    unsafe fn keep<S: Simd>(self, _: S, (): (), _: usize, _: usize) {}
}

impl Pooling {
    /// Folds each window of `x`.
    pub(super) fn run<F: Fold, M: Memory>(&self, x: &[f32], y: &mut [f32], memory: M, pool: &Pool) {
        /// Loads of a task: some microseconds.
        const WORK: usize = 64 * 1024;
        let Self { isa, input, output, .. } = *self;
        let row = output.w * output.c;
        let rows = (WORK / (row * self.window.taps()).max(1)).clamp(1, output.h);
        let blocks = output.h.div_ceil(rows);
        let y = SharedMut::new(y);
        let task = |task: usize| {
            let (block, od) = (task / output.d, task % output.d);
            let (n, block) = (block / blocks, block % blocks);
            let x = &x[n * input.sample()..][..input.sample()];
            for oh in block * rows..output.h.min((block + 1) * rows) {
                let start = ((n * output.d + od) * output.h + oh) * row;
                // SAFETY: every output row belongs to one task.
                let y = unsafe { y.slice_mut(start..start + row) };
                dispatch(isa, Row::<F, M> { pooling: self, x, y, start, memory, at: [od, oh], fold: PhantomData });
            }
        };
        pool.for_each(output.n * blocks * output.d, task);
    }

    /// Loads and folds.
    pub(super) fn flops(&self) -> u64 {
        (self.output.len() as u64).saturating_mul(self.window.taps() as u64)
    }
}

/// One row of the output.
struct Row<'a, F, M> {
    pooling: &'a Pooling,
    /// One sample.
    x: &'a [f32],
    y: &'a mut [f32],
    /// The first element of the row.
    start: usize,
    memory: M,
    /// Depth and height.
    at: [usize; 2],
    fold: PhantomData<F>,
}

/// A box of the input: the first point; the first tap that sees it and how many do, along each axis.
struct Taps {
    first: usize,
    starts: [usize; 3],
    counts: [usize; 3],
}

impl<F: Fold, M: Memory> Kernel for Row<'_, F, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Pooling { window, input, output, .. } = *self.pooling;
        let [od, oh] = self.at;
        let (depth, height) = (window.valid_taps(0, od, input.d), window.valid_taps(1, oh, input.h));
        let (d, h) = (position(&window, 0, od, depth.start), position(&window, 1, oh, height.start));
        let above = (d * input.h + h) * input.w;
        let kernel = window.kernel[2];
        let [begin, end] = [0, kernel - 1].map(|tap| window.valid_outputs(2, tap, input.w, output.w));
        for ow in 0..output.w {
            let interior = begin.contains(&ow) && end.contains(&ow);
            let width = if interior { 0..kernel } else { window.valid_taps(2, ow, input.w) };
            let starts = [depth.start, height.start, width.start];
            let counts = [depth.len(), height.len(), width.len()];
            let first = if counts.contains(&0) { 0 } else { above + position(&window, 2, ow, width.start) };
            self.point(simd, ow, &Taps { first, starts, counts });
        }
    }
}

/// The input position of a tap that sees the input.
#[inline(always)]
fn position(window: &Window, axis: usize, out: usize, tap: usize) -> usize {
    (out * window.stride[axis] + tap * window.dilation[axis]).saturating_sub(window.padding[axis][0])
}

impl<F: Fold, M: Memory> Row<'_, F, M> {
    #[inline(always)]
    fn point<S: Simd>(&mut self, simd: S, ow: usize, taps: &Taps) {
        let c = self.pooling.output.c;
        let mut channel = 0;
        while channel + 4 * S::LANES <= c {
            self.vectors::<S, 4>(simd, [ow, channel], taps, None);
            channel += 4 * S::LANES;
        }
        while channel + S::LANES <= c {
            self.vectors::<S, 1>(simd, [ow, channel], taps, None);
            channel += S::LANES;
        }
        if channel < c {
            self.vectors::<S, 1>(simd, [ow, channel], taps, Some(simd.first(c - channel)));
        }
    }

    /// `N` vectors, or the tail, of one output point.
    #[inline(always)]
    fn vectors<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        [ow, channel]: [usize; 2],
        taps: &Taps,
        tail: Option<S::M>,
    ) {
        let Pooling { window, input, mean, .. } = *self.pooling;
        let pitch = [input.h * input.w, input.w, 1];
        let [along_d, along_h, along_w] = [0, 1, 2].map(|axis| pitch[axis] * window.dilation[axis] * input.c);
        let [depth, height, width] = taps.counts;
        let [_, kernel_h, kernel_w] = window.kernel;
        let number =
            |kd: usize, kh: usize| ((taps.starts[0] + kd) * kernel_h + taps.starts[1] + kh) * kernel_w + taps.starts[2];
        let mut acc = [simd.splat(F::START); N];
        let mut lanes = [M::start(simd, number(0, 0)); N];
        for kd in 0..depth {
            for kh in 0..height {
                let row = taps.first * input.c + channel + kd * along_d + kh * along_h;
                let first = number(kd, kh);
                for kw in 0..width {
                    let at = row + kw * along_w;
                    debug_assert!(at < self.x.len());
                    for v in 0..N {
                        // SAFETY: the tap sees the input, so that its point is in `x`, and so are its channels.
                        let x = unsafe { load(simd, self.x.as_ptr().add(at + v * S::LANES), tail) };
                        acc[v] = F::fold(simd, acc[v], x);
                        lanes[v] = M::see(simd, lanes[v], x, first + kw);
                    }
                }
            }
        }
        let count = match mean {
            None => 1,
            Some(Divisor::Taps) => window.taps(),
            Some(Divisor::ValidTaps) => depth * height * width,
        };
        let factor = simd.splat(1.0 / count as f32);
        for v in 0..N {
            let channel = channel + v * S::LANES;
            let y = ow * input.c + channel;
            // SAFETY: `y` is a row of output points, `ow` one of them; the vectors or the tail end with its channels.
            unsafe {
                store(simd, self.y.as_mut_ptr().add(y), simd.mul(acc[v], factor), tail);
                self.memory.keep(simd, lanes[v], self.start + y, S::LANES.min(input.c - channel));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, op, pairs, triple, try_op};
    use super::super::{Op, Value};
    use super::*;

    /// The naive pool: `finish(values of the taps that see the input)`.
    fn naive(x: &[f64], input: Shape, window: &Window, finish: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let [od, oh, ow] = window.output(input.dims()).unwrap();
        let mut y = Vec::new();
        for at in 0..input.n * od * oh * ow * input.c {
            let (c, rest) = (at % input.c, at / input.c);
            let (out, n) = ([rest / ow / oh % od, rest / ow % oh, rest % ow], rest / ow / oh / od);
            let mut seen = Vec::new();
            for tap in 0..window.taps() {
                let [_, kh, kw] = window.kernel;
                let tap = [tap / kw / kh, tap / kw % kh, tap % kw];
                let position = |axis: usize| window.position(axis, out[axis], tap[axis], input.dims()[axis]);
                if let (Some(d), Some(h), Some(w)) = (position(0), position(1), position(2)) {
                    seen.push(x[(((n * input.d + d) * input.h + h) * input.w + w) * input.c + c]);
                }
            }
            y.push(finish(&seen));
        }
        y
    }

    fn max_pool(window: &Window) -> Box<dyn Op> {
        let Window { kernel, stride, dilation, padding } = *window;
        let sizes = [("kernel", triple(kernel)), ("stride", triple(stride)), ("dilation", triple(dilation))];
        op("max_pool", &[sizes.as_slice(), &[("padding", pairs(padding))]].concat())
    }

    fn avg_pool(window: &Window, count_include_pad: bool) -> Box<dyn Op> {
        let Window { kernel, stride, padding, .. } = *window;
        let sizes = [("kernel", triple(kernel)), ("stride", triple(stride)), ("padding", pairs(padding))];
        op("avg_pool", &[sizes.as_slice(), &[("count_include_pad", Value::Bool(count_include_pad))]].concat())
    }

    fn largest(seen: &[f64]) -> f64 {
        seen.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    fn check(window: &Window, shape: Shape) {
        let trial = Trial::new(max_pool(window), &[shape]);
        let want = naive(&trial.input(0), shape, window, largest);
        // Windows that see nothing have a test of their own.
        if want.iter().all(|y| y.is_finite()) {
            trial.check(&want);
        }
        if window.dilation == [1; 3] {
            let mean = |seen: &[f64]| seen.iter().sum::<f64>() / seen.len() as f64;
            let trial = Trial::new(avg_pool(window, false), &[shape]);
            trial.check(&naive(&trial.input(0), shape, window, mean));
            let mean = |seen: &[f64]| seen.iter().sum::<f64>() / window.taps() as f64;
            let trial = Trial::new(avg_pool(window, true), &[shape]);
            trial.check(&naive(&trial.input(0), shape, window, mean));
        }
    }

    #[test]
    fn windows_of_all_kinds() {
        let windows = [
            Window::new([1, 3, 3], [1, 2, 2], [1; 3], [[0; 2], [1; 2], [1; 2]]),
            Window::new([1, 3, 3], [1, 1, 1], [1; 3], [[0; 2], [1; 2], [1; 2]]),
            Window::new([1, 2, 2], [1, 2, 2], [1; 3], [[0; 2], [0, 1], [0, 1]]),
            Window::new([1, 1, 1], [1, 2, 2], [1; 3], [[0; 2]; 3]),
            Window::new([3, 3, 3], [2, 2, 2], [1; 3], [[1; 2]; 3]),
            Window::new([2, 3, 4], [3, 1, 2], [1; 3], [[1, 0], [0, 2], [3, 1]]),
            Window::new([2, 3, 2], [1, 2, 1], [2, 3, 5], [[1, 1], [6, 4], [2, 5]]),
        ];
        for window in windows.map(Result::unwrap) {
            for c in CHANNELS {
                check(&window, Shape::new(2, [5, 13, 12], c));
            }
            for dims in [[1, 1, 1], [1, 2, 1], [2, 1, 3]] {
                if window.output(dims).is_ok() {
                    check(&window, Shape::new(1, dims, 5));
                }
            }
        }
        let stem = Window::new([1, 3, 3], [1, 2, 2], [1; 3], [[0; 2], [1; 2], [1; 2]]).unwrap();
        check(&stem, Shape::new(1, [1, 56, 57], 64));
    }

    #[test]
    fn gradients() {
        let windows = [
            Window::new([1, 3, 3], [1, 2, 2], [1; 3], [[0; 2], [1; 2], [1; 2]]),
            Window::new([1, 2, 2], [1, 3, 2], [1; 3], [[0; 2], [0, 1], [0, 1]]),
            Window::new([3, 3, 3], [2, 2, 2], [1; 3], [[1; 2]; 3]),
            Window::new([2, 3, 4], [3, 1, 2], [1; 3], [[1, 0], [0, 2], [3, 1]]),
            Window::new([2, 3, 2], [1, 2, 1], [2, 3, 5], [[1, 1], [6, 4], [2, 5]]),
            // More taps than a byte can number, than two can.
            Window::new([1, 17, 17], [1, 2, 1], [1; 3], [[0; 2], [8; 2], [8; 2]]),
            Window::new([1, 257, 257], [1; 3], [1; 3], [[0; 2], [250, 0], [250, 0]]),
        ];
        for window in windows.map(Result::unwrap) {
            for c in if window.taps() > 256 { vec![3] } else { vec![1, 17, 70] } {
                let shape = Shape::new(2, [3, 11, 12], c);
                Trial::new(max_pool(&window), &[shape]).apart().check_gradients(2e-3, 1e-2);
                if window.dilation == [1; 3] && window.taps() <= 256 {
                    Trial::new(avg_pool(&window, false), &[shape]).check_gradients(1e-1, 1e-4);
                    Trial::new(avg_pool(&window, true), &[shape]).check_gradients(1e-1, 1e-4);
                }
            }
        }
    }

    #[test]
    fn the_first_of_equal_maxima_and_nan_take_the_gradient() {
        let window = Window::new([1, 2, 2], [1, 2, 2], [1; 3], [[0; 2], [1, 0], [1, 0]]).unwrap();
        let shape = Shape::new(1, [1, 3, 3], 19);
        let first_taps = |places: [usize; 4]| {
            let mut want = vec![0.0; shape.len()];
            places.iter().for_each(|&point| want[point * shape.c..][..shape.c].fill(1.0));
            want
        };
        for isa in Isa::available() {
            let mut trial = Trial::new(max_pool(&window), &[shape]);
            for value in [0.0, f32::NEG_INFINITY, f32::NAN] {
                trial.inputs[0].fill(value);
                let (_, gradients) = trial.train(isa, 2, &[1.0; 4 * 19], false);
                assert_eq!(gradients[0], first_taps([0, 1, 3, 4]), "{value} on {}", isa.name());
            }
            trial.inputs[0].fill(0.0);
            trial.inputs[0][8 * shape.c..].fill(f32::NAN);
            let (y, gradients) = trial.train(isa, 2, &[1.0; 4 * 19], false);
            assert!(y[3 * shape.c..].iter().all(|y| y.is_nan()));
            assert_eq!(gradients[0], first_taps([0, 1, 3, 8]));
        }
    }

    #[test]
    fn windows_that_see_only_padding_are_minus_infinity() {
        let window = Window::new([1, 1, 2], [1; 3], [1, 1, 2], [[0; 2], [0; 2], [1; 2]]).unwrap();
        let trial = Trial::new(max_pool(&window), &[Shape::new(1, [1, 1, 1], 20)]);
        for isa in Isa::available() {
            assert_eq!(trial.run(isa, 1), vec![f32::NEG_INFINITY; 20]);
        }
    }

    #[test]
    fn nan_and_infinities_are_seen() {
        let window = Window::unit([1, 2, 3]).unwrap();
        let shape = Shape::new(1, [1, 2, 3], 18);
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..shape.len() {
                let mut trial = Trial::new(max_pool(&window), &[shape]);
                trial.inputs[0][place] = special;
                let want = naive(&trial.input(0), shape, &window, largest);
                for isa in Isa::available() {
                    for (c, (y, want)) in trial.run(isa, 1).into_iter().zip(&want).enumerate() {
                        let nan = special.is_nan() && c == place % shape.c;
                        assert!(if nan { y.is_nan() } else { f64::from(y) == *want }, "{special} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn padding_as_wide_as_the_window_and_absurd_sizes_are_refused() {
        let max = |kernel, dilation, padding| {
            let sizes = [("kernel", triple(kernel)), ("stride", triple([1; 3])), ("dilation", triple(dilation))];
            try_op("max_pool", &[sizes.as_slice(), &[("padding", pairs(padding))]].concat()).map(|_| ())
        };
        assert!(max([1, 3, 3], [1; 3], [[0; 2], [2; 2], [2; 2]]).is_ok());
        assert!(max([1, 3, 3], [1; 3], [[0; 2], [0, 3], [0; 2]]).unwrap_err().contains("height"));
        assert!(max([1, 2, 2], [1, 3, 3], [[0; 2], [3; 2], [3; 2]]).is_ok());
        assert!(max([1 << 20; 3], [1; 3], [[0; 2]; 3]).unwrap_err().contains("taps"));
        let window = Window::unit([1, 3, 3]).unwrap();
        assert!(max_pool(&window).infer(&[Shape::new(1, [1, 2, 5], 1)]).unwrap_err().contains("height"));
    }
}
