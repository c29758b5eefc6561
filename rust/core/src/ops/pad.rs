//! Spatial padding up to a multiple, and the crop that undoes it.
//!
//! - pad: zeros behind, until every axis is a multiple of `multiple`.
//! - crop: the first points of an input, `scale` times as many along each axis (without the fraction) as a second
//!   input, of which nothing else matters, has.
//!
//! Each is the other's backward pass: where `p` are the points that input and output share, `d_x[p] = d_y[p]` and 0 elsewhere.
//! The second input of a crop has no part in the output, and a gradient of zeros. Nothing is kept.

use super::lanes::copy_plus;
use super::upsample::scaled;
use super::{
    Attributes, Backward, Compile, Forward, Gradient, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs,
};
use crate::parallel::Pool;
use crate::shape::{Dims3, Shape};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::window::AXES;

/// Zeros behind, up to a multiple.
#[derive(Clone, Copy, Debug)]
pub struct Pad {
    multiple: Dims3,
}

/// The first points, as many as the second input has, times a scale.
#[derive(Clone, Copy, Debug)]
pub struct Crop {
    scale: [f64; 3],
}

impl Pad {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { multiple: attributes.sizes("multiple")? }))
    }
}

impl Crop {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self { scale: attributes.factors("scale")? }))
    }
}

impl Op for Pad {
    fn kind(&self) -> &'static str {
        "pad"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let mut dims = inputs[0].dims();
        for (size, multiple) in dims.iter_mut().zip(self.multiple) {
            let padded = size.checked_next_multiple_of(multiple);
            *size = padded.ok_or_else(|| format!("{} is too large to be padded", inputs[0]))?;
        }
        Ok(inputs[0].with_dims(dims))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(Corner::new(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(Corner::new(context))
    }
}

impl Op for Crop {
    fn kind(&self) -> &'static str {
        "crop"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 2)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (input, like) = (inputs[0], inputs[1]);
        let mut dims = like.dims();
        for axis in 0..AXES.len() {
            let size = scaled(dims[axis], self.scale[axis]).filter(|&size| size <= input.dims()[axis]);
            dims[axis] = size.ok_or_else(|| {
                format!("cannot crop {input} to {} times the {} of {like}", self.scale[axis], AXES[axis])
            })?;
        }
        if input.n != like.n {
            return Err(format!("cannot crop a batch of {} as one of {}", input.n, like.n));
        }
        Ok(input.with_dims(dims))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(Corner::new(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(Corner::new(context))
    }
}

/// Copies the box that input and output share, from their first points on; zeros beyond it.
struct Corner {
    isa: Isa,
    input: Shape,
    output: Shape,
}

impl Corner {
    fn new(context: &Compile<'_>) -> Self {
        Self { isa: context.isa, input: context.inputs[0], output: context.output }
    }

    /// Writes all of `y`, plus what it is to be added to.
    fn run(&self, x: &[f32], y: Gradient<'_>, pool: &Pool) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let Self { isa, input, output } = *self;
        let row = output.w * output.c;
        let width = input.w.min(output.w) * output.c;
        let rows = (CHUNK / row).max(1);
        let Gradient { values, plus } = y;
        pool.for_each_chunk(values, rows * row, |task, y| {
            for (number, y) in y.chunks_exact_mut(row).enumerate() {
                let number = task * rows + number;
                let (plane, h) = (number / output.h, number % output.h);
                let (n, d) = (plane / output.d, plane % output.d);
                let plus = plus.map(|plus| &plus[number * row..][..row]);
                let shared = if d < input.d && h < input.h { width } else { 0 };
                let (inside, outside) = y.split_at_mut(shared);
                if shared > 0 {
                    let start = ((n * input.d + d) * input.h + h) * input.w * input.c;
                    let x = &x[start..start + shared];
                    dispatch(isa, Copy { x, plus: plus.map(|plus| &plus[..shared]), y: inside });
                }
                match plus {
                    Some(plus) => outside.copy_from_slice(&plus[shared..]),
                    None => outside.fill(0.0),
                }
            }
        });
    }
}

impl Step for Corner {
    fn forward(&self, io: Io<'_>) {
        self.run(io.inputs[0], Gradient { values: io.output, plus: None }, io.pool);
    }

    fn algorithm(&self) -> String {
        "copy".into()
    }
}

impl TrainStep for Corner {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn forward(&self, io: Forward<'_>) {
        Step::forward(self, io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let (d_x, d_like) = io.d_inputs.split_at_mut(1);
        if let Some(d_x) = d_x[0].take() {
            Self { input: self.output, output: self.input, ..*self }.run(io.d_output, d_x, io.pool);
        }
        d_like.iter_mut().flatten().for_each(|d_like| d_like.nothing(io.pool));
    }
}

struct Copy<'a> {
    x: &'a [f32],
    plus: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        copy_plus(simd, self.x, self.plus, self.y);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::super::trial::{Trial, op, triple};
    use super::*;

    fn naive(x: &[f64], input: Shape, output: Shape) -> Vec<f64> {
        let mut y = vec![0.0; output.len()];
        for (i, y) in y.iter_mut().enumerate() {
            let (c, point) = (i % output.c, i / output.c);
            let (w, h) = (point % output.w, point / output.w % output.h);
            let (d, n) = (point / output.w / output.h % output.d, point / output.spatial());
            if d < input.d && h < input.h && w < input.w {
                *y = x[(((n * input.d + d) * input.h + h) * input.w + w) * input.c + c];
            }
        }
        y
    }

    #[test]
    fn padded_to_multiples_and_cropped_back() {
        for (dims, multiple) in [([1, 5, 9], [1, 4, 8]), ([3, 8, 7], [4, 8, 3]), ([2, 2, 2], [1, 1, 1])] {
            for c in [1, 3, 16, 33] {
                let (input, pad) = (Shape::new(2, dims, c), op("pad", &[("multiple", triple(multiple))]));
                let trial = Trial::new(pad, &[input]);
                let padded = trial.output();
                assert!((0..3).all(|axis| padded.dims()[axis].is_multiple_of(multiple[axis])));
                trial.check(&naive(&trial.input(0), input, padded));
                trial.check_gradients(1e-1, 1e-4);
                let crop = || op("crop", &[("scale", triple([1; 3]))]);
                let trial = Trial::new(crop(), &[padded, input.with_channels(2)]);
                assert_eq!(trial.output(), input);
                trial.check(&naive(&trial.input(0), padded, input));
                trial.check_gradients(1e-1, 1e-4);
            }
        }
    }

    #[test]
    fn a_crop_is_no_larger_than_its_input() {
        let crop = Crop { scale: [1.0, 2.0, 2.5] };
        let input = Shape::new(1, [1, 8, 8], 3);
        assert_eq!(crop.infer(&[input, Shape::new(1, [1, 3, 3], 1)]), Ok(Shape::new(1, [1, 6, 7], 3)));
        assert!(crop.infer(&[input, Shape::new(1, [1, 5, 3], 1)]).unwrap_err().contains("height"));
    }
}
