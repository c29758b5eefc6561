//! Tests of one operator: built from attributes, fused as the planner would, run on random data with every instruction
//! set and several numbers of threads, compared with a float64 reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Attributes, Backward, Compile, Forward, Gradient, Io, Op, Packing, Packs, Parameter, Precision, Role, Step,
    Stretches, Value, Wants, parse,
};
use crate::buffer::Buffer;
use crate::parallel::run_with;
use crate::shape::Shape;
use crate::simd::Isa;
use crate::testing::{assert_close, for_each_isa, random};

/// The relative error that float32 kernels may have.
pub(super) const TOLERANCE: f64 = 2e-5;

/// Channel counts around the lengths of vectors.
pub(super) const CHANNELS: [usize; 7] = [1, 3, 15, 16, 17, 64, 70];

/// The operator of that name.
///
/// # Panics
/// If the attributes are not valid.
pub(super) fn op(kind: &str, attributes: &[(&str, Value)]) -> Box<dyn Op> {
    try_op(kind, attributes).unwrap()
}

/// As [`op`], with its errors.
pub(super) fn try_op(kind: &str, attributes: &[(&str, Value)]) -> Result<Box<dyn Op>, String> {
    let values: BTreeMap<String, Value> =
        attributes.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    parse(kind, Attributes::new(values))
}

/// Three whole numbers.
pub(super) fn triple(values: [usize; 3]) -> Value {
    Value::List(values.iter().map(|&value| Value::Int(value as i64)).collect())
}

/// Three pairs of whole numbers.
pub(super) fn pairs(values: [[usize; 2]; 3]) -> Value {
    let pair = |pair: &[usize; 2]| Value::List(pair.iter().map(|&value| Value::Int(value as i64)).collect());
    Value::List(values.iter().map(pair).collect())
}

/// A name.
pub(super) fn text(value: &str) -> Value {
    Value::Text(value.into())
}

/// An operator with inputs and parameters.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) op: Arc<dyn Op>,
    pub(super) shapes: Vec<Shape>,
    pub(super) inputs: Vec<Vec<f32>>,
    pub(super) parameters: Vec<Vec<f32>>,
}

impl Trial {
    /// Random inputs of these shapes, random parameters.
    pub(super) fn new(op: Box<dyn Op>, shapes: &[Shape]) -> Self {
        let op: Arc<dyn Op> = op.into();
        let channels: Vec<usize> = shapes.iter().map(|shape| shape.c).collect();
        let inputs = shapes.iter().enumerate().map(|(i, shape)| random(i as u64, shape.len())).collect();
        let parameters = values(&op.signature(&channels).unwrap().parameters, 100);
        Self { op, shapes: shapes.to_vec(), inputs, parameters }
    }

    /// With inputs of which no two of a channel are closer than 1/64: steps of 1/500 do not change which is the largest.
    pub(super) fn apart(mut self) -> Self {
        for (shape, input) in self.shapes.iter().zip(&mut self.inputs) {
            let points = shape.n * shape.spatial();
            for (i, x) in input.iter_mut().enumerate() {
                let (point, channel) = (i / shape.c, i % shape.c);
                // A permutation, whatever the number of points that a test has: the factor is prime.
                *x = ((point * 7919 + channel * 31) % points) as f32 / 64.0 - points as f32 / 128.0;
            }
        }
        self
    }

    /// Fused with `next`, whose other inputs have these shapes.
    pub(super) fn absorb(mut self, next: &dyn Op, others: &[Shape]) -> Self {
        let channels: Vec<usize> = [self.output()].iter().chain(others).map(|shape| shape.c).collect();
        self.op = self.op.absorb(next, 0).expect("can be absorbed").into();
        self.parameters.extend(values(&next.signature(&channels).unwrap().parameters, 200));
        self.inputs.extend(others.iter().map(|shape| random(50, shape.len())));
        self.shapes.extend(others);
        self
    }

    /// The shape of the output.
    pub(super) fn output(&self) -> Shape {
        self.op.infer(&self.shapes).unwrap()
    }

    /// What `compile` makes of it for inference.
    pub(super) fn compile<T>(&self, isa: Isa, threads: usize, compile: impl FnOnce(&mut Compile<'_>) -> T) -> T {
        let parameters: Vec<&[f32]> = self.parameters.iter().map(Vec::as_slice).collect();
        let mut made = Stretches::default();
        let step = run_with(threads, |pool| {
            let packing = Packing::Shared { known: &mut Packs::new(), made: &mut made };
            let (inputs, output, parameters) = (&self.shapes, self.output(), &parameters);
            let precision = Precision::Default;
            compile(&mut Compile { isa, threads, pool, precision, inputs, output, parameters, packing })
        });
        made.finish();
        step
    }

    /// The output.
    pub(super) fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let step = self.compile(isa, threads, |context| self.op.compile(context));
        let inputs: Vec<&[f32]> = self.inputs.iter().map(Vec::as_slice).collect();
        forward(&*step, &inputs, self.output(), threads)
    }

    /// Compares every instruction set with `want`, and every number of threads with one thread, bit by bit.
    #[track_caller]
    pub(super) fn check(&self, want: &[f64]) {
        for_each_isa(|isa| {
            let one = self.run(isa, 1);
            assert_close(&one, want, TOLERANCE);
            for threads in [2, 3] {
                let more = self.run(isa, threads);
                let same = one.iter().zip(&more).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} differs with {threads} threads on {}", self.op.kind(), isa.name());
            }
        });
    }

    /// Fused with `next` for training.
    pub(super) fn absorb_for_training(mut self, next: &dyn Op, others: &[Shape]) -> Self {
        self.op = self.op.absorb_for_training(next, 0).expect("can be absorbed").into();
        self.inputs.extend(others.iter().map(|shape| random(50, shape.len())));
        self.shapes.extend(others);
        self
    }

    /// Both directions in training mode: the output, then the gradients of inputs and parameters for the gradient `d_y` of
    /// the output, each input's with `plus` added.
    pub(super) fn train(&self, isa: Isa, threads: usize, d_y: &[f32], plus: bool) -> (Vec<f32>, Vec<Vec<f32>>) {
        let shape = self.output();
        let inputs: Vec<&[f32]> = self.inputs.iter().map(Vec::as_slice).collect();
        let parameters: Vec<&[f32]> = self.parameters.iter().map(Vec::as_slice).collect();
        let wants_inputs = vec![true; inputs.len()];
        let channels: Vec<usize> = self.shapes.iter().map(|shape| shape.c).collect();
        let roles = self.op.signature(&channels).unwrap().parameters;
        let trains: Vec<bool> =
            roles.iter().map(|row| !matches!(row.role, Role::RunningMean | Role::RunningVariance)).collect();
        let wants = Wants { inputs: &wants_inputs, plus: &vec![plus; inputs.len()], parameters: &trains };
        let mut y = vec![f32::NAN; shape.len()];
        let mut d_inputs: Vec<Vec<f32>> = inputs.iter().map(|input| vec![f32::NAN; input.len()]).collect();
        let mut d_parameters: Vec<Vec<f32>> = parameters.iter().map(|row| vec![0.0; row.len()]).collect();
        let contributed: Vec<Vec<f32>> = inputs.iter().map(|input| contributed(input.len())).collect();
        run_with(threads, |pool| {
            let packing = Packing::Own;
            let (shapes, seed) = (&self.shapes, 1);
            let mut context = Compile {
                isa,
                threads,
                pool,
                precision: Precision::Default,
                inputs: shapes,
                output: shape,
                parameters: &parameters,
                packing,
            };
            let mut step = self.op.compile_for_training(&mut context, wants);
            step.repack(&parameters, pool);
            let mut saved = Buffer::copy_of(&vec![f32::NAN; step.saved()]);
            let [forward, backward] = step.scratch().map(|length| vec![f32::NAN; length]);
            let mut scratch = Buffer::copy_of(&forward);
            step.forward(Forward {
                parameters: &parameters,
                inputs: &inputs,
                output: &mut y,
                saved: &mut saved,
                scratch: &mut scratch,
                seed,
                pool,
            });
            let keeps = step.keeps();
            let kept: Vec<&[f32]> = (inputs.iter().enumerate())
                .map(|(slot, &input)| if keeps.inputs.contains(&slot) { input } else { &[] })
                .collect();
            let mut scratch = Buffer::copy_of(&backward);
            step.backward(Backward {
                parameters: &parameters,
                inputs: &kept,
                output: if keeps.output { &y } else { &[] },
                d_output: d_y,
                saved: &saved,
                d_inputs: &mut (d_inputs.iter_mut().zip(&contributed))
                    .map(|(values, other)| Some(Gradient { values, plus: plus.then_some(other.as_slice()) }))
                    .collect::<Vec<_>>(),
                d_parameters: &mut (d_parameters.iter_mut().zip(&trains))
                    .map(|(row, &trains)| trains.then_some(row.as_mut_slice()))
                    .collect::<Vec<_>>(),
                scratch: &mut scratch,
                seed,
                pool,
            });
        });
        d_inputs.extend(d_parameters.into_iter().zip(trains).filter(|(_, trains)| *trains).map(|(row, _)| row));
        (y, d_inputs)
    }

    /// Compares gradients with central differences of the output over steps of `h`, along random directions: on every
    /// instruction set, within `tolerance` of their norm. Every number of threads must give the same bits.
    #[track_caller]
    pub(super) fn check_gradients(&self, h: f32, tolerance: f64) {
        let d_y = random(99, self.output().len());
        for_each_isa(|isa| {
            let (_, gradients) = self.train(isa, 1, &d_y, false);
            for threads in [2, 3] {
                let (_, more) = self.train(isa, threads, &d_y, false);
                assert!(gradients == more, "{} differs with {threads} threads on {}", self.op.kind(), isa.name());
            }
            let (_, added) = self.train(isa, 2, &d_y, true);
            for (number, (added, alone)) in added.iter().zip(&gradients).enumerate() {
                let mut want = wide(alone);
                if number < self.inputs.len() {
                    want.iter_mut().zip(contributed(alone.len())).for_each(|(want, other)| *want += f64::from(other));
                }
                assert_close(added, &want, 1e-5);
            }
            let loss = |trial: &Trial| -> f64 {
                let (y, _) = trial.train(isa, 1, &d_y, false);
                y.iter().zip(&d_y).map(|(&y, &d_y)| f64::from(y) * f64::from(d_y)).sum()
            };
            let mut moved = self.clone();
            let trained = gradients.len() - self.inputs.len();
            for (number, gradient) in gradients.iter().enumerate() {
                let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
                for direction in 0..2 {
                    let direction = random(1000 + 10 * number as u64 + direction, gradient.len());
                    let mut at = |step: f32| {
                        let (from, to) = if number < self.inputs.len() {
                            (&self.inputs[number], &mut moved.inputs[number])
                        } else {
                            let row = number - self.inputs.len();
                            assert!(row < trained);
                            (&self.parameters[row], &mut moved.parameters[row])
                        };
                        for ((to, from), direction) in to.iter_mut().zip(from).zip(&direction) {
                            *to = from + step * direction;
                        }
                        loss(&moved)
                    };
                    let want = (at(h) - at(-h)) / (2.0 * f64::from(h));
                    at(0.0);
                    let got: f64 = gradient.iter().zip(&direction).map(|(&g, &v)| f64::from(g) * f64::from(v)).sum();
                    let error = (got - want).abs() / norm.max(1e-3);
                    assert!(
                        error <= tolerance,
                        "gradient {number} of {:?} on {}: got {got}, want {want}, error {error:.1e} of its norm {norm:.3}",
                        self.op,
                        isa.name()
                    );
                }
            }
        });
    }

    /// An input in float64.
    pub(super) fn input(&self, number: usize) -> Vec<f64> {
        wide(&self.inputs[number])
    }

    /// A parameter in float64.
    pub(super) fn parameter(&self, number: usize) -> Vec<f64> {
        wide(&self.parameters[number])
    }
}

/// The output of a step, which is of that shape. Memory is NaN before, so that nothing can be left out or read too early.
///
/// # Panics
/// If the step gives other bits where its output takes the place of an input.
pub(super) fn forward(step: &dyn Step, inputs: &[&[f32]], shape: Shape, threads: usize) -> Vec<f32> {
    let run = |inputs: &[&[f32]], output: &mut [f32], in_place: bool| {
        let mut scratch = Buffer::copy_of(&vec![f32::NAN; step.scratch()]);
        run_with(threads, |pool| step.forward(Io { inputs, output, in_place, scratch: &mut scratch, pool }));
    };
    let mut output = vec![f32::NAN; shape.len()];
    run(inputs, &mut output, false);
    if let Some(slot) = step.in_place() {
        let mut inputs = inputs.to_vec();
        let mut place = std::mem::take(&mut inputs[slot]).to_vec();
        run(&inputs, &mut place, true);
        let same = output.iter().zip(&place).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && place.len() == output.len(), "{} differs in place", step.algorithm());
    }
    output
}

/// What others contribute to a gradient of that length.
fn contributed(length: usize) -> Vec<f32> {
    random(77, length)
}

/// In float64.
pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Batch norm of rows of channels, with epsilon 1e-3.
pub(super) fn naive_norm(x: &[f64], parameters: &[Vec<f32>]) -> Vec<f64> {
    let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|i| wide(&parameters[i]));
    let norm = |(i, x): (usize, &f64)| {
        let c = i % weight.len();
        (x - mean[c]) / (variance[c] + 1e-3).sqrt() * weight[c] + bias[c]
    };
    x.iter().enumerate().map(norm).collect()
}

/// Squeeze-and-excitation of maps of this shape, with the functions of [`excite`].
pub(super) fn naive_excite(x: &[f64], shape: Shape, parameters: &[Vec<f32>]) -> Vec<f64> {
    let layer = |x: &[f64], [weight, bias]: [&Vec<f32>; 2], f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        let dot = |weight: &[f64]| x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>();
        wide(weight).chunks(x.len()).zip(wide(bias)).map(|(weight, bias)| f(dot(weight) + bias)).collect()
    };
    let [w1, b1, w2, b2] = [0, 1, 2, 3].map(|i| &parameters[i]);
    let mut y = Vec::new();
    for sample in x.chunks(shape.sample()) {
        let mut mean = vec![0.0; shape.c];
        sample.iter().enumerate().for_each(|(i, x)| mean[i % shape.c] += x / shape.spatial() as f64);
        let hidden = layer(&mean, [w1, b1], &|x| x.max(0.0));
        let gate = layer(&hidden, [w2, b2], &|x| 1.0 / (1.0 + (-x).exp()));
        y.extend(sample.iter().enumerate().map(|(i, x)| x * gate[i % shape.c]));
    }
    y
}

/// The squeeze-and-excitation that [`naive_excite`] computes.
pub(super) fn excite(hidden: usize) -> Box<dyn Op> {
    let names = [("activation", text("relu")), ("gate", text("sigmoid"))];
    op("squeeze_excite", &[names.as_slice(), &[("hidden", Value::Int(hidden as i64))]].concat())
}

/// The batch norm that [`naive_norm`] computes.
pub(super) fn norm() -> Box<dyn Op> {
    op("batch_norm", &[("epsilon", Value::Float(1e-3)), ("momentum", Value::Float(0.9))])
}

fn values(parameters: &[Parameter], seed: u64) -> Vec<Vec<f32>> {
    let value = |(i, parameter): (usize, &Parameter)| {
        let mut values = random(seed + i as u64, parameter.shape.iter().product());
        let fan_in: usize = parameter.shape.iter().skip(1).product();
        match parameter.role {
            Role::Kernel => values.iter_mut().for_each(|value| *value /= (fan_in as f32).sqrt()),
            Role::Embedding => {}
            Role::Bias | Role::RunningMean => values.iter_mut().for_each(|value| *value *= 0.1),
            Role::Scale => values.iter_mut().for_each(|value| *value = 1.0 + 0.2 * *value),
            Role::RunningVariance => values.iter_mut().for_each(|value| *value = 1.0 + 0.9 * value.sin()),
        }
        values
    };
    parameters.iter().enumerate().map(value).collect()
}

#[test]
fn unknown_names_and_attributes_are_refused() {
    assert!(try_op("convolve", &[]).unwrap_err().contains("convolve"));
    assert!(try_op("add", &[("epsilon", Value::Int(1))]).unwrap_err().contains("epsilon"));
    assert!(try_op("activation", &[("function", text("rel"))]).unwrap_err().contains("leaky_relu"));
    assert!(try_op("activation", &[("function", text("relu")), ("slope", Value::Int(1))]).is_err());
    assert!(
        try_op("upsample", &[("scale", triple([1, 2, 2])), ("mode", text("cubic"))]).unwrap_err().contains("cubic")
    );
}
