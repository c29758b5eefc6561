//! Spatial padding up to a multiple, and the crop that undoes it.
//!
//! - pad: zeros behind, until every axis is a multiple of `multiple`.
//! - crop: the first points of an input, `scale` times as many along each axis (without the fraction) as a second
//!   input, of which nothing else matters, has.
//!
//! Each is the other's backward pass.

use super::lanes::copy;
use super::upsample::scaled;
use super::{Attributes, Compile, Io, Op, Signature, Step, expect_inputs};
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
        Box::new(Corner { isa: context.isa, input: context.inputs[0], output: context.output })
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
        Box::new(Corner { isa: context.isa, input: context.inputs[0], output: context.output })
    }
}

/// Copies the box that input and output share, from their first points on; zeros beyond it.
struct Corner {
    isa: Isa,
    input: Shape,
    output: Shape,
}

impl Step for Corner {
    fn forward(&self, io: Io<'_>) {
        let Self { isa, input, output } = *self;
        let x = io.inputs[0];
        let row = output.w * output.c;
        let width = input.w.min(output.w) * output.c;
        io.pool.for_each_chunk(io.output, output.h * row, |plane, y| {
            let (n, d) = (plane / output.d, plane % output.d);
            for (h, y) in y.chunks_exact_mut(row).enumerate() {
                if d < input.d && h < input.h {
                    let start = ((n * input.d + d) * input.h + h) * input.w * input.c;
                    let (inside, outside) = y.split_at_mut(width);
                    dispatch(isa, Copy { x: &x[start..start + width], y: inside });
                    outside.fill(0.0);
                } else {
                    y.fill(0.0);
                }
            }
        });
    }

    fn algorithm(&self) -> String {
        "copy".into()
    }
}

struct Copy<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        copy(simd, self.x, self.y);
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
                let crop = || op("crop", &[("scale", triple([1; 3]))]);
                let trial = Trial::new(crop(), &[padded, input.with_channels(2)]);
                assert_eq!(trial.output(), input);
                trial.check(&naive(&trial.input(0), padded, input));
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
