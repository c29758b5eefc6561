//! The sum of two activations of one shape: `y = a + b`.

use super::affine::Affine;
use super::epilogue::Epilogue;
use super::{Attributes, Compile, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;

/// The sum of two inputs.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Add {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self))
    }

    fn alone() -> Affine {
        Affine { epilogue: Epilogue { residual: true, ..Epilogue::default() } }
    }
}

impl Op for Add {
    fn kind(&self) -> &'static str {
        "add"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 2)?;
        if channels[0] != channels[1] {
            return Err(format!("cannot add {} channels and {} channels", channels[0], channels[1]));
        }
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Self::alone().infer(inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        Self::alone().absorb(next, slot)
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Self::alone().compile(context)
    }

    fn absorb_for_training(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        Self::alone().absorb_for_training(next, slot)
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        Self::alone().compile_for_training(context, wants)
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, norm, op, text};
    use super::*;

    #[test]
    fn sums_with_and_without_an_activation() {
        for c in CHANNELS {
            for dims in [[1, 1, 1], [1, 9, 13], [5, 20, 21]] {
                let shape = Shape::new(2, dims, c);
                let trial = Trial::new(op("add", &[]), &[shape, shape]);
                let want: Vec<f64> = trial.input(0).iter().zip(trial.input(1)).map(|(a, b)| a + b).collect();
                trial.check(&want);
                let trial = trial.absorb(&*op("activation", &[("function", text("relu"))]), &[]);
                trial.check(&want.iter().map(|y| y.max(0.0)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn gradients() {
        let shape = Shape::new(2, [1, 9, 13], 17);
        let trial = Trial::new(op("add", &[]), &[shape, shape]);
        trial.check_gradients(1e-1, 1e-4);
        trial.absorb_for_training(&*op("activation", &[("function", text("relu"))]), &[]).check_gradients(1e-4, 2e-2);
    }

    #[test]
    fn shapes_must_agree_and_nothing_wrong_is_absorbed() {
        let add = op("add", &[]);
        let shape = Shape::new(2, [1, 4, 4], 8);
        assert!(add.signature(&[8, 9]).is_err());
        assert!(add.signature(&[8]).is_err());
        assert!(add.infer(&[shape, Shape { h: 5, ..shape }]).unwrap_err().contains("(2, 5, 4, 8)"));
        assert!(add.absorb(&*add, 0).is_none());
        assert!(add.absorb(&*norm(), 0).is_none());
        let relu = op("activation", &[("function", text("relu"))]);
        assert!(add.absorb(&*relu, 0).unwrap().absorb(&*relu, 0).is_none());
    }
}
