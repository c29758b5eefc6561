//! Tests of one operator: built from attributes, fused as the planner would, run on random data with every instruction
//! set and several numbers of threads, compared with a float64 reference.

use std::collections::BTreeMap;

use super::{Attributes, Compile, Io, Op, Packs, Parameter, Precision, Role, Value, gather, parse};
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
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) op: Box<dyn Op>,
    pub(super) shapes: Vec<Shape>,
    pub(super) inputs: Vec<Vec<f32>>,
    pub(super) parameters: Vec<Vec<f32>>,
}

impl Trial {
    /// Random inputs of these shapes, random parameters.
    pub(super) fn new(op: Box<dyn Op>, shapes: &[Shape]) -> Self {
        let channels: Vec<usize> = shapes.iter().map(|shape| shape.c).collect();
        let inputs = shapes.iter().enumerate().map(|(i, shape)| random(i as u64, shape.len())).collect();
        let parameters = values(&op.signature(&channels).unwrap().parameters, 100);
        Self { op, shapes: shapes.to_vec(), inputs, parameters }
    }

    /// Fused with `next`, whose other inputs have these shapes.
    pub(super) fn absorb(mut self, next: &dyn Op, others: &[Shape]) -> Self {
        let channels: Vec<usize> = [self.output()].iter().chain(others).map(|shape| shape.c).collect();
        self.op = self.op.absorb(next, 0).expect("can be absorbed");
        self.parameters.extend(values(&next.signature(&channels).unwrap().parameters, 200));
        self.inputs.extend(others.iter().map(|shape| random(50, shape.len())));
        self.shapes.extend(others);
        self
    }

    /// The shape of the output.
    pub(super) fn output(&self) -> Shape {
        self.op.infer(&self.shapes).unwrap()
    }

    /// The output. Memory is NaN before, so that nothing can be left out or read too early.
    pub(super) fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let shape = self.output();
        let inputs: Vec<&[f32]> = self.inputs.iter().map(Vec::as_slice).collect();
        let parameters: Vec<&[f32]> = self.parameters.iter().map(Vec::as_slice).collect();
        let mut packs = Packs::new();
        let (shapes, parameters, packs) = (&self.shapes, &parameters, &mut packs);
        let mut packed = Vec::new();
        let packed = &mut packed;
        let precision = Precision::Default;
        let context =
            &mut Compile { isa, threads, precision, inputs: shapes, output: shape, parameters, packs, packed };
        let step = self.op.compile(context);
        gather(packed);
        let mut output = vec![f32::NAN; shape.len()];
        let mut scratch = Buffer::zeroed(step.scratch());
        scratch.fill(f32::NAN);
        run_with(threads, |pool| {
            step.forward(Io { inputs: &inputs, output: &mut output, scratch: &mut scratch, pool });
        });
        output
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

    /// An input in float64.
    pub(super) fn input(&self, number: usize) -> Vec<f64> {
        wide(&self.inputs[number])
    }

    /// A parameter in float64.
    pub(super) fn parameter(&self, number: usize) -> Vec<f64> {
        wide(&self.parameters[number])
    }
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
