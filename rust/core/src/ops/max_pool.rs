//! Maximum pooling: `y[o] = max over the taps t of x[o * stride - padding + t * dilation]`.
//!
//! Padding counts as minus infinity, as in PyTorch. It is narrower than the window, so that only a dilated window on a
//! map smaller than the dilation can see nothing but padding; its maximum is minus infinity, as PyTorch has it. NaN in
//! a window gives NaN.
//!
//! Backward: `d_x[i] = sum of d_y[o] over the outputs o whose maximum is x[i]`: the first of equal ones, as in PyTorch. Forward
//! saves the number of the tap of that maximum for every element of `y`, in one byte where the window has at most 256
//! taps, else in two or four. Each input gathers from the windows that see it where the number is that of the tap that
//! does; no other activation is kept.

use std::marker::PhantomData;

use super::fold::Max;
use super::pool::{Memory, Pooling, parse_window};
use super::training::Gradient;
use super::transposed_axes::{Readers, readers};
use super::{Attributes, Backward, Compile, Forward, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::buffer::LINE;
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Kernel, Simd, dispatch};
use crate::window::Window;

/// The maximum over a window.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool {
    window: Window,
}

impl MaxPool {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let dilation = attributes.sizes("dilation")?;
        Ok(Box::new(Self { window: parse_window(attributes, dilation)? }))
    }
}

impl Op for MaxPool {
    fn kind(&self) -> &'static str {
        "max_pool"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0].with_dims(self.window.output(inputs[0].dims())?))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.step(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        let step = self.step(context);
        match self.window.taps() {
            0..=0x100 => Box::new(MaxPoolTraining::<u8>::new(step)),
            0x101..=0x1_0000 => Box::new(MaxPoolTraining::<u16>::new(step)),
            _ => Box::new(MaxPoolTraining::<u32>::new(step)),
        }
    }
}

impl MaxPool {
    fn step(&self, context: &Compile<'_>) -> MaxPoolStep {
        let Compile { isa, inputs, output, .. } = *context;
        MaxPoolStep { pooling: Pooling { isa, window: self.window, input: inputs[0], output, mean: None } }
    }
}

struct MaxPoolStep {
    pooling: Pooling,
}

impl Step for MaxPoolStep {
    fn forward(&self, io: Io<'_>) {
        self.pooling.run::<Max, ()>(io.inputs[0], io.output, (), io.pool);
    }

    fn algorithm(&self) -> String {
        "window".into()
    }

    fn flops(&self) -> u64 {
        self.pooling.flops()
    }
}

/// The number of a tap, in as few bytes as can hold it.
trait Number: Copy + PartialEq + Send + Sync + 'static {
    /// The low bits of a number that fits.
    fn new(number: u32) -> Self;
}

impl Number for u8 {
    #[inline(always)]
    fn new(number: u32) -> Self {
        number as u8
    }
}

impl Number for u16 {
    #[inline(always)]
    fn new(number: u32) -> Self {
        number as u16
    }
}

impl Number for u32 {
    #[inline(always)]
    fn new(number: u32) -> Self {
        number
    }
}

/// Remembers the tap of the first maximum of every window.
#[derive(Clone, Copy)]
struct FirstMaximum<'a, T> {
    /// Memory for a `T` for each element of the output.
    numbers: SharedMut<'a>,
    kind: PhantomData<T>,
}

/// The bits of a tap's number in every lane. They are only moved and selected, never computed with.
#[inline(always)]
fn bits<S: Simd>(simd: S, tap: usize) -> S::V {
    simd.splat(f32::from_bits(tap as u32))
}

impl<T: Number> Memory for FirstMaximum<'_, T> {
    /// The largest value so far, and its tap.
    type Lanes<S: Simd> = (S::V, S::V);

    #[inline(always)]
    fn start<S: Simd>(simd: S, tap: usize) -> (S::V, S::V) {
        (simd.splat(f32::NEG_INFINITY), bits(simd, tap))
    }

    #[inline(always)]
    fn see<S: Simd>(simd: S, (largest, number): (S::V, S::V), x: S::V, tap: usize) -> (S::V, S::V) {
        // NaN, which is the maximum if there is one, counts as infinity.
        let x = simd.min(x, simd.splat(f32::INFINITY));
        let larger = simd.less(largest, x);
        (simd.select(larger, x, largest), simd.select(larger, bits(simd, tap), number))
    }

    #[inline(always)]
    unsafe fn keep<S: Simd>(self, simd: S, (_, number): (S::V, S::V), at: usize, count: usize) {
        const { assert!(S::LANES <= LINE) };
        let mut numbers = [0.0f32; LINE];
        // SAFETY: no vector is longer than a line; the numbers of the outputs belong to the task as they do.
        unsafe {
            simd.store(numbers.as_mut_ptr(), number);
            let to = self.numbers.as_mut_ptr().cast::<T>().add(at);
            // Whole vectors apart: the compiler makes one store of this loop.
            if count == S::LANES {
                for lane in 0..S::LANES {
                    to.add(lane).write(T::new(numbers[lane].to_bits()));
                }
            } else {
                for lane in 0..count {
                    to.add(lane).write(T::new(numbers[lane].to_bits()));
                }
            }
        }
    }
}

/// Maximum pooling in both directions, with taps numbered by `T`.
struct MaxPoolTraining<T> {
    step: MaxPoolStep,
    /// The windows that see each input position, with what the tap that does adds to the tap's number.
    readers: [Readers<u32>; 3],
    kind: PhantomData<T>,
}

impl<T: Number> MaxPoolTraining<T> {
    fn new(step: MaxPoolStep) -> Self {
        let Pooling { window, input, output, .. } = step.pooling;
        let [_, kernel_h, kernel_w] = window.kernel;
        let pitch = [kernel_h * kernel_w, kernel_w, 1];
        let along = |axis: usize| {
            let size = input.dims()[axis];
            let seen = |out: usize| {
                let taps = window.valid_taps(axis, out, size);
                taps.filter_map(move |tap| Some((window.position(axis, out, tap, size)?, (tap * pitch[axis]) as u32)))
            };
            readers(size, (0..output.dims()[axis]).map(seen))
        };
        Self { step, readers: [0, 1, 2].map(along), kind: PhantomData }
    }

    fn gradient(&self, d_y: &[f32], numbers: &[T], d_x: Gradient<'_>, pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Pooling { isa, input, output, .. } = self.step.pooling;
        let [along_d, along_h, along_w] = &self.readers;
        let row = input.w * input.c;
        let height = (CHUNK / row).max(1);
        let Gradient { values, plus } = d_x;
        pool.for_each_chunk(values, height * row, |task, d_x| {
            let mut rows = Vec::new();
            for (number, d_x) in d_x.chunks_exact_mut(row).enumerate() {
                let number = task * height + number;
                let (n, d, h) = (number / input.h / input.d, number / input.h % input.d, number % input.h);
                rows.clear();
                for &(od, tap_d) in &along_d[d] {
                    let start = |oh: usize| ((n * output.d + od) * output.h + oh) * output.w * output.c;
                    rows.extend(along_h[h].iter().map(|&(oh, tap_h)| (start(oh), tap_d + tap_h)));
                }
                let plus = plus.map(|plus| &plus[number * row..][..row]);
                dispatch(isa, Winners { d_y, numbers, rows: &rows, along_w, plus, d_x, c: input.c });
            }
        });
    }
}

impl<T: Number> TrainStep for MaxPoolTraining<T> {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn saved(&self) -> usize {
        (self.step.pooling.output.len() * size_of::<T>()).div_ceil(size_of::<f32>())
    }

    fn forward(&self, io: Forward<'_>) {
        assert!(io.saved.len() >= self.saved());
        let memory = FirstMaximum::<T> { numbers: SharedMut::new(io.saved), kind: PhantomData };
        self.step.pooling.run::<Max, _>(io.inputs[0], io.output, memory, io.pool);
    }

    fn backward(&self, io: Backward<'_>) {
        assert!(io.saved.len() >= self.saved());
        // SAFETY: so many numbers were saved, by the step forward; floats are aligned at least as numbers are.
        let numbers = unsafe { std::slice::from_raw_parts(io.saved.as_ptr().cast::<T>(), io.d_output.len()) };
        if let Some(d_x) = io.d_inputs[0].take() {
            self.gradient(io.d_output, numbers, d_x, io.pool);
        }
    }
}

/// One row of the gradient of the input.
struct Winners<'a, T> {
    d_y: &'a [f32],
    numbers: &'a [T],
    /// First elements of the rows of windows that see this row, and what that adds to the tap's number.
    rows: &'a [(usize, u32)],
    along_w: &'a Readers<u32>,
    plus: Option<&'a [f32]>,
    d_x: &'a mut [f32],
    c: usize,
}

impl<T: Number> Kernel for Winners<'_, T> {
    type Output = ();

    /// The compiler vectorises the loop over channels: bytes compared with a byte make the mask of an addition.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { d_y, numbers, rows, along_w, plus, d_x, c } = self;
        match plus {
            Some(plus) => d_x.copy_from_slice(plus),
            None => d_x.fill(0.0),
        }
        for (d_x, readers) in d_x.chunks_exact_mut(c).zip(along_w) {
            for &(start, tap_row) in rows {
                for &(ow, tap) in readers {
                    let (tap, window) = (T::new(tap_row + tap), start + ow * c..start + (ow + 1) * c);
                    for ((d_x, &d_y), &number) in d_x.iter_mut().zip(&d_y[window.clone()]).zip(&numbers[window]) {
                        *d_x += if number == tap { d_y } else { 0.0 };
                    }
                }
            }
        }
    }
}
