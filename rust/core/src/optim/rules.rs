//! What one step does to one vector of parameters.
//!
//! With gradient `g` (clipped, coupled decay added), learning rate `r`, step number `t` from 1:
//!
//! | rule | state | step |
//! |---|---|---|
//! | sgd | `v = momentum v + (1 - dampening) g` | `p -= r v`; Nesterov: `p -= r (g + momentum v)` |
//! | adam | `m = b1 m + (1 - b1) g`, `s = b2 s + (1 - b2) g²` | `p -= r / (1 - b1^t) m / (sqrt(s / (1 - b2^t)) + epsilon)` |
//! | rmsprop | `s = rho s + (1 - rho) g²`, centred also `a = rho a + (1 - rho) g` | `p -= r g / (sqrt(s - a²) + epsilon)`, through `v` with momentum |
//!
//! These are torch.optim's. Keras differs in where some factors stand ([`Convention`]), all of which are numbers that are
//! known before a step begins: each rule is one formula with coefficients.

use crate::ops::Attributes;
use crate::simd::Simd;

/// Whose formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// torch.optim. Weight decay is added to the gradient, except by adamw.
    Torch,
    /// Keras: the learning rate is inside the momentum buffer, Adam's epsilon is added before its second correction,
    /// RMSprop's inside the square root; weight decay always shrinks the parameters themselves.
    Keras,
}

/// The kind of an optimiser, with what does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent.
    Sgd {
        /// 0 for none.
        momentum: f32,
        /// How much of a gradient does not reach the momentum buffer, after the first.
        dampening: f32,
        /// Whether the step looks ahead.
        nesterov: bool,
    },
    /// Adam and AdamW.
    Adam {
        /// Decay of the mean.
        beta1: f32,
        /// Decay of the mean square.
        beta2: f32,
        /// Keeps the denominator from 0.
        epsilon: f32,
        /// Whether weight decay shrinks the parameters instead of joining the gradient.
        decoupled: bool,
    },
    /// RMSprop.
    RmsProp {
        /// Decay of the mean square.
        rho: f32,
        /// 0 for none.
        momentum: f32,
        /// Keeps the denominator from 0.
        epsilon: f32,
        /// Whether the mean square is made a variance.
        centered: bool,
    },
}

/// A decay that leaves something to be averaged: below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

impl Rule {
    /// `sgd`, `adam`, `adamw` or `rmsprop` with its options.
    pub(super) fn parse(kind: &str, convention: Convention, options: &mut Attributes) -> Result<Self, String> {
        let any = 0.0..=f32::MAX;
        let decay = 0.0..=BELOW_ONE;
        let epsilon = if convention == Convention::Keras { 1e-7 } else { 1e-8 };
        match kind {
            "sgd" => {
                let momentum = options.number_within("momentum", 0.0, any)?;
                let dampening = options.number_within("dampening", 0.0, 0.0..=1.0)?;
                let nesterov = options.flag_or("nesterov", false)?;
                if nesterov && (momentum == 0.0 || dampening != 0.0) {
                    return Err("nesterov needs a momentum above 0 and no dampening".into());
                }
                if dampening != 0.0 && convention == Convention::Keras {
                    return Err("Keras has no dampening".into());
                }
                Ok(Self::Sgd { momentum, dampening, nesterov })
            }
            "adam" | "adamw" => Ok(Self::Adam {
                beta1: options.number_within("beta1", 0.9, decay.clone())?,
                beta2: options.number_within("beta2", 0.999, decay)?,
                epsilon: options.number_within("epsilon", epsilon, any)?,
                decoupled: kind == "adamw",
            }),
            "rmsprop" => Ok(Self::RmsProp {
                rho: options.number_within("rho", if convention == Convention::Keras { 0.9 } else { 0.99 }, decay)?,
                momentum: options.number_within("momentum", 0.0, any.clone())?,
                epsilon: options.number_within("epsilon", epsilon, any)?,
                centered: options.flag_or("centered", false)?,
            }),
            other => Err(format!("optimizer: expected one of sgd, adam, adamw, rmsprop, got {other:?}")),
        }
    }

    /// The names of its moments, as in the `state` of torch.optim.
    pub fn moments(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        let mut add = |name, wanted| names.extend(Some(name).filter(|_| wanted));
        match *self {
            Self::Sgd { momentum, .. } => add("momentum_buffer", momentum > 0.0),
            Self::Adam { .. } => {
                add("exp_avg", true);
                add("exp_avg_sq", true);
            }
            Self::RmsProp { momentum, centered, .. } => {
                add("square_avg", true);
                add("momentum_buffer", momentum > 0.0);
                add("grad_avg", centered);
            }
        }
        names
    }
}

/// The numbers of one step for the parameters of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// What the gradient is multiplied by: the clipping of its norm.
    pub(super) gradient_scale: f32,
    /// What it is bounded by.
    pub(super) gradient_bound: f32,
    /// Added to it, times the parameter.
    pub(super) coupled_decay: f32,
    /// What the parameter is multiplied by.
    pub(super) shrink: f32,
    /// Of the gradient, on its way into the momentum buffer.
    pub(super) inner: f32,
    /// Of what is taken from the parameter.
    pub(super) outer: f32,
    /// What the root of the mean square is multiplied by.
    pub(super) root_scale: f32,
    /// Added inside the root.
    pub(super) epsilon_inside: f32,
    /// Added to the root.
    pub(super) epsilon: f32,
}

impl Rates {
    /// For step number `step`, from 1.
    pub(super) fn new(rule: Rule, convention: Convention, step: u64, rate: f32, decay: f32) -> Self {
        let keras = convention == Convention::Keras;
        let decoupled = keras || matches!(rule, Rule::Adam { decoupled: true, .. });
        let mut rates = Self {
            gradient_scale: 1.0,
            gradient_bound: f32::INFINITY,
            coupled_decay: if decoupled { 0.0 } else { decay },
            shrink: if decoupled { (1.0 - f64::from(rate) * f64::from(decay)) as f32 } else { 1.0 },
            inner: 1.0,
            outer: rate,
            root_scale: 1.0,
            epsilon_inside: 0.0,
            epsilon: 0.0,
        };
        match rule {
            Rule::Sgd { momentum, dampening, .. } => {
                if keras && momentum > 0.0 {
                    (rates.inner, rates.outer) = (rate, 1.0);
                } else if step > 1 {
                    rates.inner = 1.0 - dampening;
                }
            }
            Rule::Adam { beta1, beta2, epsilon, .. } => {
                let correction = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
                let root_scale = 1.0 / correction(beta2).sqrt();
                rates.outer = (f64::from(rate) / correction(beta1)) as f32;
                rates.root_scale = root_scale as f32;
                rates.epsilon = if keras { (f64::from(epsilon) * root_scale) as f32 } else { epsilon };
            }
            Rule::RmsProp { epsilon, momentum, .. } => {
                if keras {
                    rates.epsilon_inside = epsilon;
                } else {
                    rates.epsilon = epsilon;
                }
                if keras && momentum > 0.0 {
                    (rates.inner, rates.outer) = (rate, 1.0);
                }
            }
        }
        rates
    }
}

/// The most moments that a rule has.
pub(super) const MOMENTS: usize = 3;

impl Rule {
    /// The parameters after the step; `moments` in the order of [`Rule::moments`].
    #[inline(always)]
    pub(super) fn apply<S: Simd>(
        &self,
        s: S,
        rates: &Rates,
        values: S::V,
        gradients: S::V,
        moments: &mut [S::V; MOMENTS],
    ) -> S::V {
        let bound = s.splat(rates.gradient_bound);
        let scaled = s.mul(gradients, s.splat(rates.gradient_scale));
        // NaN is the second operand, and stays.
        let bounded = s.max(s.sub(s.splat(0.0), bound), s.min(bound, scaled));
        let gradients = s.fma(values, s.splat(rates.coupled_decay), bounded);
        let values = s.mul(values, s.splat(rates.shrink));
        let (inner, outer) = (s.splat(rates.inner), s.splat(-rates.outer));
        let step = match *self {
            Self::Sgd { momentum: 0.0, .. } => gradients,
            Self::Sgd { momentum, nesterov, .. } => {
                let momentum = s.splat(momentum);
                moments[0] = s.fma(momentum, moments[0], s.mul(inner, gradients));
                if nesterov { s.fma(momentum, moments[0], s.mul(inner, gradients)) } else { moments[0] }
            }
            Self::Adam { beta1, beta2, .. } => {
                moments[0] = average(s, beta1, moments[0], gradients);
                moments[1] = average(s, beta2, moments[1], s.mul(gradients, gradients));
                let root = s.fma(s.sqrt(moments[1]), s.splat(rates.root_scale), s.splat(rates.epsilon));
                s.div(moments[0], root)
            }
            Self::RmsProp { rho, momentum, centered, .. } => {
                moments[0] = average(s, rho, moments[0], s.mul(gradients, gradients));
                let mut square = moments[0];
                if centered {
                    let mean = &mut moments[1 + usize::from(momentum > 0.0)];
                    *mean = average(s, rho, *mean, gradients);
                    // Rounding may leave a variance of nothing below 0. NaN is the second operand, and stays.
                    square = s.max(s.splat(0.0), s.sub(square, s.mul(*mean, *mean)));
                }
                let root = s.add(s.sqrt(s.add(square, s.splat(rates.epsilon_inside))), s.splat(rates.epsilon));
                let step = s.div(gradients, root);
                if momentum > 0.0 {
                    moments[1] = s.fma(s.splat(momentum), moments[1], s.mul(inner, step));
                    moments[1]
                } else {
                    step
                }
            }
        };
        s.fma(outer, step, values)
    }
}

/// `decay mean + (1 - decay) v`
#[inline(always)]
fn average<S: Simd>(s: S, decay: f32, mean: S::V, v: S::V) -> S::V {
    s.fma(s.splat(1.0 - decay), v, s.mul(s.splat(decay), mean))
}
