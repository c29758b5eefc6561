//! Optimisers: one pass over parameters, gradients and moments, all in one flat layout.
//!
//! A step is: the gradients clipped, by value or by the norm of all of them together; for every row its own learning rate
//! (the common one times the row's factor; factor 0 freezes the row) and weight decay; the rule ([`Rule`]); and, if wanted,
//! the moving average of all rows, `average = decay average + (1 - decay) parameters`, which begins as they were before the
//! first step. A row that no gradient moves has one too: running statistics belong to the weights they were seen with.
//! Rows are cut into fixed chunks: results do not depend on the number of threads.

mod rules;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::ops::Attributes;
use crate::pieces::{self, CHUNK, Place};
use crate::simd::slices::{load, store};
use crate::simd::{Kernel, Simd, dispatch};

pub use rules::{Convention, Rule};
use rules::{MOMENTS, Rates};

/// The name of the moving average among the buffers of a state.
const AVERAGE: &str = "average";

/// How gradients are kept small.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clip {
    None,
    /// Each to at most this magnitude.
    Value(f32),
    /// All together to at most this norm.
    Norm(f32),
}

/// What is particular about one row of parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// What the learning rate is multiplied by; 0 leaves the row alone.
    pub factor: f32,
    /// Weight decay.
    pub decay: f32,
}

/// An optimiser and its state. Memory is taken at the first step, or when a state is loaded.
pub struct Optimizer {
    rule: Rule,
    convention: Convention,
    groups: Vec<Group>,
    clip: Clip,
    average: Option<f32>,
    step: u64,
    /// By name: the moments of the rule, in its order, and the average.
    state: Vec<(&'static str, Buffer)>,
}

fn fail(message: String) -> Error {
    Error::Graph { node: "optimizer".into(), message }
}

impl Optimizer {
    /// An optimiser for rows with these groups. `options`: those of the rule, `convention`, `clip_value` or `clip_norm`,
    /// `average`.
    ///
    /// # Errors
    /// [`Error::Graph`] for an option that is unknown or out of range.
    pub fn new(kind: &str, mut options: Attributes, groups: Vec<Group>) -> Result<Self> {
        let conventions = [("torch", Convention::Torch), ("keras", Convention::Keras)];
        let read = |options: &mut Attributes| {
            let convention = options.choice("convention", &conventions)?;
            let rule = Rule::parse(kind, convention, options)?;
            let positive = f32::MIN_POSITIVE..=f32::MAX;
            let clip = match (options.has("clip_value"), options.has("clip_norm")) {
                (true, true) => return Err("expected clip_value or clip_norm, got both".into()),
                (true, false) => Clip::Value(options.number_within("clip_value", 1.0, positive)?),
                (false, true) => Clip::Norm(options.number_within("clip_norm", 1.0, positive)?),
                (false, false) => Clip::None,
            };
            let average = options.has(AVERAGE).then(|| options.number_within(AVERAGE, 0.0, 0.0..=1.0)).transpose()?;
            Ok((rule, convention, clip, average))
        };
        let (rule, convention, clip, average) = read(&mut options).map_err(fail)?;
        options.finish().map_err(fail)?;
        let bad = |value: f32| !(value.is_finite() && value >= 0.0);
        if let Some(row) = groups.iter().position(|group| bad(group.factor) || bad(group.decay)) {
            let Group { factor, decay } = groups[row];
            return Err(fail(format!("row {row}: expected factor and decay >= 0, got {factor} and {decay}")));
        }
        Ok(Self { rule, convention, groups, clip, average, step: 0, state: Vec::new() })
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// The buffers of the state by name; none before the first step.
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.state.iter().map(|(name, buffer)| (*name, &**buffer))
    }

    /// Goes on from a state that [`Optimizer::state`] and [`Optimizer::step_count`] gave.
    ///
    /// # Errors
    /// [`Error::Parameter`] for buffers that are missing, unknown, or of different lengths, [`Error::Memory`].
    pub fn load_state(&mut self, step: u64, mut buffers: BTreeMap<String, &[f32]>) -> Result<()> {
        let fail = |name: &str, message: String| Error::Parameter { name: format!("optimizer state {name}"), message };
        let length = buffers.values().next().map_or(0, |buffer| buffer.len());
        let mut state = Vec::new();
        // Without a step there is nothing to remember.
        for name in self.names().into_iter().filter(|_| step > 0 || !buffers.is_empty()).collect::<Vec<_>>() {
            let buffer = buffers.remove(name).ok_or_else(|| fail(name, "expected a flat array, got none".into()))?;
            if buffer.len() != length {
                return Err(fail(name, format!("expected {length} elements as the others, got {}", buffer.len())));
            }
            let mut copy = allocate(name, length)?;
            copy.copy_from_slice(buffer);
            state.push((name, copy));
        }
        if let Some(name) = buffers.keys().next() {
            return Err(fail(name, "this optimizer has no such state".into()));
        }
        (self.step, self.state) = (step, state);
        Ok(())
    }

    fn names(&self) -> Vec<&'static str> {
        let mut names = self.rule.moments();
        names.extend(self.average.map(|_| AVERAGE));
        names
    }

    /// Takes one step: `values`, `gradients` and the state share one layout, in which `rows` are ascending and disjoint.
    ///
    /// # Errors
    /// [`Error::Graph`] if rows or lengths do not fit, [`Error::Memory`]. Nothing has changed then.
    pub fn update(
        &mut self,
        rows: &[Range<usize>],
        values: &mut [f32],
        gradients: &[f32],
        learning_rate: f32,
        place: Place<'_>,
    ) -> Result<()> {
        self.check(rows, [values.len(), gradients.len()], learning_rate)?;
        self.allocate(values)?;
        self.step += 1;
        let trained = |row: &usize| self.groups[*row].factor > 0.0;
        let moved = (0..rows.len()).filter(|row| trained(row) || self.average.is_some());
        let cuts: Vec<(usize, Range<usize>)> = moved.flat_map(|row| cut(row, &rows[row])).collect();
        let (mut scale, mut bound) = (1.0, f32::INFINITY);
        match self.clip {
            Clip::None => {}
            Clip::Value(largest) => bound = largest,
            Clip::Norm(largest) => {
                let norm = squares(cuts.iter().filter(|(row, _)| trained(row)), gradients, place).sqrt();
                let factor = f64::from(largest) / (norm + 1e-6);
                // A norm that is NaN makes every gradient NaN: somebody should see it.
                scale = if factor >= 1.0 { 1.0 } else { factor as f32 };
            }
        }
        let ranges = || cuts.iter().map(|(_, range)| range);
        let mut values = split(values, ranges()).into_iter();
        let mut state: Vec<_> = self.state.iter_mut().map(|(_, all)| split(all, ranges()).into_iter()).collect();
        let moments = state.len() - usize::from(self.average.is_some());
        let stretches = cuts.iter().map(|(row, range)| {
            let group = self.groups[*row];
            let rates = trained(row).then(|| Rates {
                gradient_scale: scale,
                gradient_bound: bound,
                ..Rates::new(self.rule, self.convention, self.step, learning_rate * group.factor, group.decay)
            });
            let mut buffers = state.iter_mut().map(|pieces| pieces.next().unwrap_or_default());
            Stretch {
                rule: self.rule,
                rates,
                values: values.next().unwrap_or_default(),
                gradients: &gradients[range.clone()],
                moments: buffers.by_ref().take(moments).collect(),
                average: buffers.next().zip(self.average),
            }
        });
        pieces::for_each(place.pool, stretches.collect(), |_, stretch| dispatch(place.isa, stretch));
        Ok(())
    }

    /// Exchanges the parameters of all rows with their moving averages.
    ///
    /// # Errors
    /// [`Error::Graph`] if no average is kept, or none is there yet.
    pub fn swap_average(&mut self, rows: &[Range<usize>], values: &mut [f32]) -> Result<()> {
        self.check(rows, [values.len(); 2], 0.0)?;
        let Some((_, average)) = self.state.iter_mut().find(|(name, _)| *name == AVERAGE) else {
            return Err(fail("expected a moving average of the parameters, got none".into()));
        };
        for row in rows {
            average[row.clone()].swap_with_slice(&mut values[row.clone()]);
        }
        Ok(())
    }

    fn check(&self, rows: &[Range<usize>], [values, gradients]: [usize; 2], learning_rate: f32) -> Result<()> {
        let state = self.state.first().map_or(values, |(_, buffer)| buffer.len());
        if rows.len() != self.groups.len() {
            return Err(fail(format!("expected {} rows of parameters, got {}", self.groups.len(), rows.len())));
        }
        if gradients != values || state != values {
            let message = format!("expected {values} gradients and moments, got {gradients} and {state}");
            return Err(fail(message));
        }
        let mut end = 0;
        for row in rows {
            if row.start < end || row.end < row.start || row.end > values {
                return Err(fail(format!("row {row:?}: expected rows in ascending order within 0..{values}")));
            }
            end = row.end;
        }
        if !learning_rate.is_finite() {
            return Err(fail(format!("learning_rate: expected a finite number, got {learning_rate}")));
        }
        Ok(())
    }

    fn allocate(&mut self, values: &[f32]) -> Result<()> {
        if self.state.is_empty() {
            let state: Result<Vec<_>> =
                self.names().into_iter().map(|name| Ok((name, allocate(name, values.len())?))).collect();
            self.state = state?;
            if let Some((_, average)) = self.state.iter_mut().find(|(name, _)| *name == AVERAGE) {
                average.copy_from_slice(values);
            }
        }
        Ok(())
    }
}

fn allocate(name: &str, length: usize) -> Result<Buffer> {
    Buffer::try_zeroed(length).map_err(|failed| Error::out_of_memory("optimizer", name, failed.bytes))
}

/// The chunks of a row: fixed, whatever the number of threads.
fn cut(row: usize, range: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let end = range.end;
    range.clone().step_by(CHUNK).map(move |start| (row, start..end.min(start + CHUNK)))
}

/// The parts of `data` at ascending disjoint `ranges`.
fn split<'a, 'r>(mut data: &'a mut [f32], ranges: impl Iterator<Item = &'r Range<usize>>) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::new();
    let mut start = 0;
    for range in ranges {
        let (before, rest) = data.split_at_mut(range.end - start);
        parts.push(&mut before[range.start - start..]);
        (data, start) = (rest, range.end);
    }
    parts
}

/// The sum of the squares of the gradients in these chunks.
fn squares<'a>(cuts: impl Iterator<Item = &'a (usize, Range<usize>)>, gradients: &[f32], place: Place<'_>) -> f64 {
    let chunks: Vec<&[f32]> = cuts.map(|(_, range)| &gradients[range.clone()]).collect();
    pieces::sum(place.pool, chunks.len(), |task| dispatch(place.isa, Squares(chunks[task])))
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0f64; 16];
        for part in self.0.chunks(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(part) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        sums.iter().sum()
    }
}

/// A chunk of one row, in every buffer.
struct Stretch<'a> {
    rule: Rule,
    /// None where only the average moves.
    rates: Option<Rates>,
    values: &'a mut [f32],
    gradients: &'a [f32],
    moments: Vec<&'a mut [f32]>,
    average: Option<(&'a mut [f32], f32)>,
}

impl Kernel for Stretch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for i in (0..self.values.len()).step_by(S::LANES) {
            let mut values = load(s, &self.values[i..]);
            if let Some(rates) = &self.rates {
                let mut moments = [s.splat(0.0); MOMENTS];
                for (moment, buffer) in moments.iter_mut().zip(&self.moments) {
                    *moment = load(s, &buffer[i..]);
                }
                let gradients = load(s, &self.gradients[i..]);
                values = self.rule.apply(s, rates, values, gradients, &mut moments);
                store(s, &mut self.values[i..], values);
                for (moment, buffer) in moments.iter().zip(&mut self.moments) {
                    store(s, &mut buffer[i..], *moment);
                }
            }
            if let Some((average, decay)) = &mut self.average {
                let old = load(s, &average[i..]);
                let new = s.fma(s.splat(1.0 - *decay), s.sub(values, old), old);
                store(s, &mut average[i..], new);
            }
        }
    }
}

#[cfg(test)]
mod tests;
