//! Activation functions, `y = f(x)`, elementwise.
//!
//! | name | f(x) | as in |
//! |---|---|---|
//! | linear | `x` | |
//! | relu | `max(x, 0)` | |
//! | relu6 | `min(max(x, 0), 6)` | |
//! | leaky_relu | `x` for `x > 0`, else `slope * x` (slope 0.01) | PyTorch `LeakyReLU`, Keras with its 0.3 |
//! | elu | `x` for `x > 0`, else `slope * (exp(x) - 1)` (slope 1) | PyTorch `ELU`, where slope is alpha |
//! | sigmoid | `1 / (1 + exp(-x))` | |
//! | tanh | `tanh(x)` | |
//! | silu, swish | `x * sigmoid(x)` | Elfwing et al. 2017 |
//! | gelu | `x / 2 * (1 + erf(x / sqrt(2)))`, the exact form | Hendrycks & Gimpel 2016 |
//! | hard_sigmoid | `relu6(x + 3) / 6` | PyTorch, Keras 3 (Keras 2: `0.2 x + 0.5`) |
//! | hard_swish, hard_silu | `x * relu6(x + 3) / 6` | Howard et al. 2019 |
//!
//! NaN stays NaN.

use std::any::Any;

use super::affine::Affine;
use super::epilogue::Epilogue;
use super::lanes::{load, store};
use super::{Attributes, Compile, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::shape::Shape;
use crate::simd::{Simd, math};

/// An activation function: a small value that kernels carry along, and the operator that applies it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// `x`
    #[default]
    Linear,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` where positive, else the slope times `x`.
    LeakyRelu(f32),
    /// `x` where positive, else the slope times `exp(x) - 1`.
    Elu(f32),
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `tanh(x)`
    Tanh,
    /// `x * sigmoid(x)`
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `relu6(x + 3) / 6`
    HardSigmoid,
    /// `x * relu6(x + 3) / 6`
    HardSwish,
}

/// Every name, with the default slope where there is one.
const FUNCTIONS: &[(&str, Activation)] = &[
    ("linear", Activation::Linear),
    ("relu", Activation::Relu),
    ("relu6", Activation::Relu6),
    ("leaky_relu", Activation::LeakyRelu(0.01)),
    ("elu", Activation::Elu(1.0)),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("hard_sigmoid", Activation::HardSigmoid),
    ("hard_swish", Activation::HardSwish),
    ("hard_silu", Activation::HardSwish),
];

impl Activation {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(match Self::named(&attributes.text("function")?)? {
            Self::LeakyRelu(slope) => Self::LeakyRelu(attributes.number_or("slope", slope)?),
            Self::Elu(slope) => Self::Elu(attributes.number_or("slope", slope)?),
            other => other,
        }))
    }

    /// The function of that name, with its default slope.
    ///
    /// # Errors
    /// An unknown name; the message lists all.
    pub fn named(name: &str) -> Result<Self, String> {
        FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function).ok_or_else(|| {
            let names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
            format!("unknown activation function {name:?}, expected one of {}", names.join(", "))
        })
    }

    /// `next`, if that is an activation and this one does nothing: how an operator that ends with an activation absorbs.
    pub(super) fn followed_by(self, next: &dyn Op) -> Option<Self> {
        let next: &dyn Any = next;
        next.downcast_ref().copied().filter(|_| self == Self::Linear)
    }

    /// Whether it is a few instructions: fit to be inlined into a register tile. Kernels that unroll over many
    /// accumulators store first and use [`Activation::apply_slice`] for the others, whose code is large.
    #[inline(always)]
    pub fn is_cheap(self) -> bool {
        matches!(self, Self::Linear | Self::Relu | Self::Relu6 | Self::LeakyRelu(_))
    }

    /// The function of every lane.
    #[inline(always)]
    pub fn apply<S: Simd>(self, simd: S, x: S::V) -> S::V {
        if self.is_cheap() { self.apply_cheap(simd, x) } else { self.apply_costly(simd, x) }
    }

    /// As [`Activation::apply`] for functions that are [cheap](Activation::is_cheap); the others change nothing.
    #[inline(always)]
    pub fn apply_cheap<S: Simd>(self, simd: S, x: S::V) -> S::V {
        // The vector that may be NaN stands last: `min` and `max` give their last argument then.
        match self {
            Self::Relu => simd.max(simd.splat(0.0), x),
            Self::Relu6 => relu6(simd, x),
            Self::LeakyRelu(slope) => simd.select(simd.less(x, simd.splat(0.0)), simd.mul(x, simd.splat(slope)), x),
            _ => x,
        }
    }

    #[inline(always)]
    fn apply_costly<S: Simd>(self, simd: S, x: S::V) -> S::V {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        match self {
            Self::Elu(slope) => {
                let below = simd.mul(simd.splat(slope), simd.sub(math::exp(simd, simd.min(zero, x)), one));
                simd.select(simd.less(x, zero), below, x)
            }
            Self::Sigmoid => math::sigmoid(simd, x),
            Self::Tanh => math::tanh(simd, x),
            Self::Silu => simd.mul(x, math::sigmoid(simd, x)),
            Self::Gelu => {
                let erf = math::erf(simd, simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2)));
                simd.mul(simd.mul(x, simd.splat(0.5)), simd.add(one, erf))
            }
            Self::HardSigmoid => hard_sigmoid(simd, x),
            Self::HardSwish => simd.mul(x, hard_sigmoid(simd, x)),
            cheap => cheap.apply_cheap(simd, x),
        }
    }

    /// Whether [`Activation::backward`] takes the output, which most networks keep anyway; it takes the input otherwise.
    pub fn backward_takes_output(self) -> bool {
        !matches!(self, Self::Silu | Self::Gelu | Self::HardSigmoid | Self::HardSwish)
    }

    /// `d_y * f'(x)`, where `value` is `f(x)` or `x` (see [`Activation::backward_takes_output`]).
    ///
    /// Where a function has a kink, its derivative is that of the side where it is constant, as in PyTorch.
    #[inline(always)]
    pub fn backward<S: Simd>(self, simd: S, value: S::V, d_y: S::V) -> S::V {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let within = |low: f32, high: f32, inside: S::V, outside: S::V| {
            let below = simd.select(simd.less(value, simd.splat(high)), inside, outside);
            simd.select(simd.less(simd.splat(low), value), below, outside)
        };
        match self {
            Self::Linear => d_y,
            Self::Relu => simd.select(simd.less(zero, value), d_y, zero),
            Self::Relu6 => within(0.0, 6.0, d_y, zero),
            Self::LeakyRelu(slope) => simd.select(simd.less(zero, value), d_y, simd.mul(d_y, simd.splat(slope))),
            Self::Elu(slope) => {
                let below = simd.mul(d_y, simd.add(value, simd.splat(slope)));
                simd.select(simd.less(zero, value), d_y, below)
            }
            Self::Sigmoid => simd.mul(d_y, simd.mul(value, simd.sub(one, value))),
            Self::Tanh => simd.mul(d_y, simd.sub(one, simd.mul(value, value))),
            Self::Silu => {
                let sigmoid = math::sigmoid(simd, value);
                let rest = simd.fma(value, simd.sub(one, sigmoid), one);
                simd.mul(d_y, simd.mul(sigmoid, rest))
            }
            Self::Gelu => {
                /// `1 / sqrt(2 pi)`
                const DENSITY: f32 = 0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
                let erf = math::erf(simd, simd.mul(value, simd.splat(std::f32::consts::FRAC_1_SQRT_2)));
                let share = simd.mul(simd.splat(0.5), simd.add(one, erf));
                let density = math::exp(simd, simd.mul(simd.mul(value, value), simd.splat(-0.5)));
                let density = simd.mul(density, simd.splat(DENSITY));
                simd.mul(d_y, simd.fma(value, density, share))
            }
            Self::HardSigmoid => within(-3.0, 3.0, simd.mul(d_y, simd.splat(1.0 / 6.0)), zero),
            Self::HardSwish => {
                let inside = simd.mul(d_y, simd.fma(value, simd.splat(1.0 / 3.0), simd.splat(0.5)));
                let above = simd.select(simd.less(simd.splat(-3.0), value), d_y, zero);
                within(-3.0, 3.0, inside, above)
            }
        }
    }

    /// Applies the function to `values` in place.
    #[inline(always)]
    pub fn apply_slice<S: Simd>(self, simd: S, values: &mut [f32]) {
        if self == Self::Linear {
            return;
        }
        for piece in values.chunks_mut(S::LANES) {
            let tail = (piece.len() < S::LANES).then(|| simd.first(piece.len()));
            // SAFETY: the piece is a whole vector or as long as the mask.
            unsafe {
                let x = load(simd, piece.as_ptr(), tail);
                store(simd, piece.as_mut_ptr(), self.apply(simd, x), tail);
            }
        }
    }
}

impl Activation {
    fn alone(self) -> Affine {
        Affine { epilogue: Epilogue { activation: self, ..Epilogue::default() } }
    }
}

#[inline(always)]
fn relu6<S: Simd>(simd: S, x: S::V) -> S::V {
    simd.min(simd.splat(6.0), simd.max(simd.splat(0.0), x))
}

#[inline(always)]
fn hard_sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    simd.mul(relu6(simd, simd.add(x, simd.splat(3.0))), simd.splat(1.0 / 6.0))
}

impl Op for Activation {
    fn kind(&self) -> &'static str {
        "activation"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        self.alone().compile(context)
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        self.alone().compile_for_training(context, wants)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{CHANNELS, Trial, op, text};
    use super::*;

    /// The error function by the series that has no cancellation.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    }

    /// The definitions.
    fn naive(name: &str, x: f64) -> f64 {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        match name {
            "linear" => x,
            "relu" => x.max(0.0),
            "relu6" => x.clamp(0.0, 6.0),
            "leaky_relu" => x.max(0.0) + 0.01 * x.min(0.0),
            "elu" => x.max(0.0) + x.min(0.0).exp_m1(),
            "sigmoid" => sigmoid,
            "tanh" => x.tanh(),
            "silu" | "swish" => x * sigmoid,
            "gelu" => x / 2.0 * (1.0 + erf(x / 2f64.sqrt())),
            "hard_sigmoid" => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            "hard_swish" | "hard_silu" => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            _ => panic!("{name} has no definition here"),
        }
    }

    #[test]
    fn gradients() {
        for (name, _) in FUNCTIONS {
            for shape in [Shape::new(2, [1, 9, 13], 17), Shape::vector(1, 3)] {
                let trial = Trial::new(op("activation", &[("function", text(name))]), &[shape]);
                // Those with a kink need a step that few elements are near to it.
                let smooth = matches!(*name, "linear" | "sigmoid" | "tanh" | "silu" | "swish" | "gelu");
                trial.check_gradients(if smooth { 1e-2 } else { 1e-4 }, if smooth { 1e-3 } else { 2e-2 });
            }
        }
    }

    #[test]
    fn every_function_is_its_definition() {
        for (name, _) in FUNCTIONS {
            for c in CHANNELS {
                let mut trial =
                    Trial::new(op("activation", &[("function", text(name))]), &[Shape::new(1, [1, 5, 7], c)]);
                trial.inputs[0].iter_mut().for_each(|x| *x *= 4.0);
                let want: Vec<f64> = trial.input(0).iter().map(|&x| naive(name, x)).collect();
                trial.check(&want);
            }
        }
    }

    #[test]
    fn slopes_are_heeded_and_nan_stays() {
        let leaky = op("activation", &[("function", text("leaky_relu")), ("slope", Value::Float(0.3))]);
        let trial = Trial::new(leaky, &[Shape::vector(2, 9)]);
        let want: Vec<f64> = trial.input(0).iter().map(|&x| x.max(0.0) + 0.3 * x.min(0.0)).collect();
        trial.check(&want);
        for (name, _) in FUNCTIONS {
            let mut trial = Trial::new(op("activation", &[("function", text(name))]), &[Shape::vector(1, 20)]);
            trial.inputs[0].fill(f32::NAN);
            for isa in crate::simd::Isa::available() {
                assert!(trial.run(isa, 1).iter().all(|y| y.is_nan()), "{name}");
            }
        }
    }

    #[test]
    fn slices_are_activated_in_place() {
        struct Slice<'a>(&'a mut [f32]);
        impl crate::simd::Kernel for Slice<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                Activation::Sigmoid.apply_slice(simd, self.0);
            }
        }
        for isa in crate::simd::Isa::available() {
            let mut values = vec![0.0; 37];
            crate::simd::dispatch(isa, Slice(&mut values));
            assert_eq!(values, vec![0.5; 37]);
        }
    }
}
