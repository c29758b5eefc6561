//! The stages as drawn for one sample: where a point comes from, and what becomes of its intensity.

use super::Samples;
use super::elastic::{Field, flat};
use super::stage::Stage;
use crate::buffer::OutOfMemory;
use crate::parallel::Pool;
use crate::rng::Stream;
use crate::shape::Dims3;

/// A stage that moves points, or takes them away.
#[derive(Clone, Debug)]
enum Move {
    /// Along `axis` of `size` points.
    Flip {
        axis: usize,
        size: usize,
    },
    /// `turns` quarter turns in a plane of `size` by `size`.
    Rotate {
        plane: [usize; 2],
        turns: usize,
        size: usize,
    },
    /// The output begins at `offset` in a sample of size `dims`; what is outside is a hole.
    Crop {
        offset: [f32; 3],
        dims: Dims3,
        hole: usize,
    },
    /// What is within a box is a hole; in masks only if they have a label for it.
    Cut {
        boxes: Vec<[[f32; 2]; 3]>,
        hole: usize,
        masks: bool,
    },
    Displace(Field),
}

/// Where a point of the output comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Origin {
    /// From nowhere: a hole of this number.
    Hole(usize),
    Point([f32; 3]),
}

/// What a hole is filled with.
#[derive(Clone, Debug)]
struct Hole {
    /// For each channel, as changed by the stages after it.
    values: Vec<f32>,
    label: i64,
}

/// What happens to one sample.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    dims: Dims3,
    channels: usize,
    moves: Vec<Move>,
    holes: Vec<Hole>,
    /// For each channel: what an intensity is multiplied by, and what is added then.
    intensity: Vec<[f32; 2]>,
}

impl Recipe {
    pub(super) fn draw(
        stages: &[Stage],
        samples: Samples,
        seed: u64,
        index: u64,
        pool: &Pool,
    ) -> Result<Self, OutOfMemory> {
        let Samples { dims, channels } = samples;
        let intensity = vec![[1.0, 0.0]; channels];
        let mut recipe = Self { dims, channels, moves: Vec::new(), holes: Vec::new(), intensity };
        let mut dims = samples.dims;
        for (number, stage) in stages.iter().enumerate() {
            let mut stream = Stream::new(seed, index, number as u32);
            recipe.add(stage, dims, &mut stream, pool)?;
            if let Stage::Crop { size, .. } = stage {
                dims = *size;
            }
        }
        Ok(recipe)
    }

    fn add(&mut self, stage: &Stage, dims: Dims3, stream: &mut Stream, pool: &Pool) -> Result<(), OutOfMemory> {
        match stage {
            Stage::Flip { axes, probability } => {
                let flips = axes.iter().filter(|_| stream.happens(*probability));
                self.moves.extend(flips.map(|&axis| Move::Flip { axis, size: dims[axis] }));
            }
            Stage::Rotate90 { plane, probability } => {
                if stream.happens(*probability) {
                    let turns = 1 + stream.below(3);
                    self.moves.push(Move::Rotate { plane: *plane, turns, size: dims[plane[0]] });
                }
            }
            Stage::Crop { size, padding, random, value, label } => {
                let offset = std::array::from_fn(|axis| {
                    let room = dims[axis] + 2 * padding[axis] - size[axis];
                    let start = if *random { stream.below(room + 1) } else { room / 2 };
                    start as f32 - padding[axis] as f32
                });
                let hole = self.new_hole(*value, *label);
                self.moves.push(Move::Crop { offset, dims, hole });
            }
            Stage::Cutout { size, count, value, label, probability } => {
                if stream.happens(*probability) {
                    // A box may reach over the border: its centre is a point of the sample.
                    let boxes = (0..*count).map(|_| {
                        std::array::from_fn(|axis| {
                            let start = stream.below(dims[axis]) as f32 - (size[axis] / 2) as f32;
                            [start, start + size[axis] as f32]
                        })
                    });
                    let boxes = boxes.collect();
                    let hole = self.new_hole(*value, label.unwrap_or(0));
                    self.moves.push(Move::Cut { boxes, hole, masks: label.is_some() });
                }
            }
            Stage::Elastic { spacing, magnitude, probability } => {
                if stream.happens(*probability) {
                    self.moves.push(Move::Displace(Field::draw(dims, *spacing, *magnitude, stream, pool)?));
                }
            }
            Stage::Intensity { factor, range: [low, high], per_channel, probability } => {
                if stream.happens(*probability) {
                    let mut amount = stream.between(*low, *high);
                    for channel in 0..self.channels {
                        if *per_channel && channel > 0 {
                            amount = stream.between(*low, *high);
                        }
                        self.change(channel, if *factor { [amount, 0.0] } else { [1.0, amount] });
                    }
                }
            }
            Stage::Normalize { mean, std } => {
                for channel in 0..self.channels {
                    let [mean, std] = [mean, std].map(|list| list[channel.min(list.len() - 1)]);
                    self.change(channel, [1.0 / std, -mean / std]);
                }
            }
        }
        Ok(())
    }

    fn new_hole(&mut self, value: f32, label: i64) -> usize {
        self.holes.push(Hole { values: vec![value; self.channels], label });
        self.holes.len() - 1
    }

    /// Changes all intensities of a channel that there are by now.
    fn change(&mut self, channel: usize, [factor, summand]: [f32; 2]) {
        let [scale, shift] = self.intensity[channel];
        self.intensity[channel] = [scale * factor, shift * factor + summand];
        for hole in &mut self.holes {
            hole.values[channel] = hole.values[channel] * factor + summand;
        }
    }

    /// Where the point at `position` of the output comes from, in an image or in its mask.
    pub(super) fn origin(&self, mut position: [f32; 3], image: bool) -> Origin {
        for step in self.moves.iter().rev() {
            match step {
                Move::Flip { axis, size } => position[*axis] = (size - 1) as f32 - position[*axis],
                Move::Rotate { plane: [a, b], turns, size } => {
                    let (last, [i, j]) = ((size - 1) as f32, [position[*a], position[*b]]);
                    [position[*a], position[*b]] = match turns {
                        1 => [j, last - i],
                        2 => [last - i, last - j],
                        _ => [last - j, i],
                    };
                }
                Move::Crop { offset, dims, hole } => {
                    for axis in 0..3 {
                        position[axis] += offset[axis];
                    }
                    let inside = |axis: usize| (0.0..dims[axis] as f32).contains(&position[axis].round());
                    if !(0..3).all(inside) {
                        return Origin::Hole(*hole);
                    }
                }
                Move::Cut { boxes, hole, masks } => {
                    let within = |bounds: &[[f32; 2]; 3]| {
                        (0..3).all(|axis| (bounds[axis][0]..bounds[axis][1]).contains(&position[axis].round()))
                    };
                    if (image || *masks) && boxes.iter().any(within) {
                        return Origin::Hole(*hole);
                    }
                }
                Move::Displace(field) => {
                    let displacement = field.at(position);
                    for axis in 0..3 {
                        position[axis] += displacement[axis];
                    }
                }
            }
        }
        Origin::Point(position)
    }

    /// The intensities of a hole.
    pub(super) fn hole(&self, number: usize) -> &[f32] {
        &self.holes[number].values
    }

    /// The label of a hole.
    pub(super) fn hole_label(&self, number: usize) -> i64 {
        self.holes[number].label
    }

    /// The number of the point of the sample nearest to `position`; beyond the border, that on the border.
    pub(super) fn nearest(&self, position: [f32; 3]) -> usize {
        flat(self.dims, position)
    }

    /// The channels of `sample` at `position`, linear between points.
    pub(super) fn sample<T: Copy + Into<f32>>(&self, sample: &[T], position: [f32; 3], values: &mut [f32]) {
        let c = self.channels;
        if position.iter().all(|x| x.fract() == 0.0) {
            let start = self.nearest(position) * c;
            values.iter_mut().zip(&sample[start..start + c]).for_each(|(value, &x)| *value = x.into());
            return;
        }
        let last: [f32; 3] = std::array::from_fn(|axis| (self.dims[axis] - 1) as f32);
        let position: [f32; 3] = std::array::from_fn(|axis| position[axis].clamp(0.0, last[axis]));
        values.fill(0.0);
        for corner in 0..8 {
            let mut weight = 1.0;
            let mut point = [0.0; 3];
            for axis in 0..3 {
                let (below, rest) = (position[axis].floor(), position[axis].fract());
                let upper = corner >> axis & 1 == 1;
                weight *= if upper { rest } else { 1.0 - rest };
                point[axis] = if upper { below + 1.0 } else { below };
            }
            if weight > 0.0 {
                let start = self.nearest(point) * c;
                for (value, &x) in values.iter_mut().zip(&sample[start..start + c]) {
                    *value += weight * x.into();
                }
            }
        }
    }

    /// Intensities as all stages change them.
    pub(super) fn adjust(&self, values: &mut [f32]) {
        for (value, [scale, shift]) in values.iter_mut().zip(&self.intensity) {
            *value = *value * scale + shift;
        }
    }
}
