//! The stages by kind, and their options.
//!
//! | kind | options |
//! |---|---|
//! | `flip` | `axes` (all), `probability` 0.5: each axis by itself |
//! | `rotate90` | `plane`, two axes (the last two), `probability` 0.5: 1, 2 or 3 quarter turns as by `numpy.rot90` |
//! | `crop` | `size`, `padding` 0 (on both sides of each axis), `random` true (else central), `value` 0, `mask_value` 0 for what lies outside |
//! | `shift_intensity` | `range`, two numbers: one of them in between is added; `per_channel` false, `probability` 1 |
//! | `scale_intensity` | the same, as a factor |
//! | `normalize` | `mean`, `std`, for all channels or each: `(x - mean) / std` |
//! | `cutout` | `size`, `count` 1, `value` 0, `mask_value` (left out: masks stay), `probability` 1 |
//! | `elastic` | `spacing` of the control points, `magnitude` (standard deviation of their displacement, in points), `probability` 1 |

use crate::ops::Attributes;
use crate::shape::Dims3;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    Flip { axes: Vec<usize>, probability: f32 },
    Rotate90 { plane: [usize; 2], probability: f32 },
    Crop { size: Dims3, padding: Dims3, random: bool, value: f32, label: i64 },
    Intensity { factor: bool, range: [f32; 2], per_channel: bool, probability: f32 },
    Normalize { mean: Vec<f32>, std: Vec<f32> },
    Cutout { size: Dims3, count: usize, value: f32, label: Option<i64>, probability: f32 },
    Elastic { spacing: Dims3, magnitude: [f32; 3], probability: f32 },
}

type Parsed<T> = Result<T, String>;

impl Stage {
    pub(super) fn parse(rank: usize, mut options: Attributes) -> Parsed<Self> {
        let kind = options.text("kind")?;
        let stage = Self::of_kind(&kind, rank, &mut options).map_err(|message| format!("{kind}: {message}"))?;
        options.finish().map_err(|message| format!("{kind}: {message}"))?;
        Ok(stage)
    }

    fn of_kind(kind: &str, rank: usize, options: &mut Attributes) -> Parsed<Self> {
        Ok(match kind {
            "flip" => {
                let all = (0..rank as i64).collect();
                let axes = options.whole_numbers("axes")?.unwrap_or(all);
                let axes = axes.into_iter().map(|number| axis(number, rank)).collect::<Parsed<_>>()?;
                Self::Flip { axes, probability: probability(options, 0.5)? }
            }
            "rotate90" => {
                let last = vec![rank as i64 - 2, rank as i64 - 1];
                let plane = options.whole_numbers("plane")?.unwrap_or(last);
                let plane = plane.into_iter().map(|number| axis(number, rank)).collect::<Parsed<Vec<_>>>()?;
                match plane[..] {
                    [a, b] if a != b => Self::Rotate90 { plane: [a, b], probability: probability(options, 0.5)? },
                    _ => return Err("plane: expected two different axes".into()),
                }
            }
            "crop" => Self::Crop {
                size: sizes(options, "size", rank, 1, 1)?,
                padding: if options.has("padding") { sizes(options, "padding", rank, 0, 0)? } else { [0; 3] },
                random: options.flag_or("random", true)?,
                value: options.number_or("value", 0.0)?,
                label: label(options)?.unwrap_or(0),
            },
            "shift_intensity" | "scale_intensity" => {
                let range = options.numbers("range")?.unwrap_or_default();
                let [low, high] = range[..] else { return Err("range: expected two numbers".into()) };
                if low > high {
                    return Err(format!("range: expected low and high, got {low} and {high}"));
                }
                Self::Intensity {
                    factor: kind == "scale_intensity",
                    range: [low, high],
                    per_channel: options.flag_or("per_channel", false)?,
                    probability: probability(options, 1.0)?,
                }
            }
            "normalize" => {
                let mut numbers =
                    |name| options.numbers(name)?.filter(|list| !list.is_empty()).ok_or(format!("{name} is missing"));
                let (mean, std) = (numbers("mean")?, numbers("std")?);
                if let Some(std) = std.iter().find(|&&std| std <= 0.0) {
                    return Err(format!("std: expected numbers above 0, got {std}"));
                }
                Self::Normalize { mean, std }
            }
            "cutout" => Self::Cutout {
                size: sizes(options, "size", rank, 1, 1)?,
                count: options.count_or("count", 1)?,
                value: options.number_or("value", 0.0)?,
                label: label(options)?,
                probability: probability(options, 1.0)?,
            },
            "elastic" => {
                let magnitude = options.numbers("magnitude")?.unwrap_or_default();
                if let Some(magnitude) = magnitude.iter().find(|&&magnitude| magnitude < 0.0) {
                    return Err(format!("magnitude: expected numbers >= 0, got {magnitude}"));
                }
                Self::Elastic {
                    spacing: sizes(options, "spacing", rank, 1, 1)?,
                    magnitude: lift("magnitude", &magnitude, rank, 0.0)?,
                    probability: probability(options, 1.0)?,
                }
            }
            _ => return Err("there is no stage of that kind".into()),
        })
    }

    /// The size after the stage.
    pub(super) fn output(&self, dims: Dims3, channels: usize) -> Parsed<Dims3> {
        match self {
            Self::Rotate90 { plane: [a, b], .. } if dims[*a] != dims[*b] => {
                Err(format!("rotate90: expected a square plane, got {} x {}", dims[*a], dims[*b]))
            }
            Self::Crop { size, padding, .. } => {
                let padded: Vec<usize> = dims.iter().zip(padding).map(|(size, padding)| size + 2 * padding).collect();
                if size.iter().zip(&padded).any(|(size, padded)| size > padded) {
                    return Err(format!("crop: expected a size within {padded:?}, got {size:?}"));
                }
                Ok(*size)
            }
            Self::Normalize { mean, std } => {
                let fits = |list: &Vec<f32>| list.len() == 1 || list.len() == channels;
                if fits(mean) && fits(std) {
                    return Ok(dims);
                }
                let lengths = [mean.len(), std.len()];
                Err(format!("normalize: expected mean and std for {channels} channels, got {lengths:?} numbers"))
            }
            _ => Ok(dims),
        }
    }
}

fn probability(options: &mut Attributes, default: f32) -> Parsed<f32> {
    options.number_within("probability", default, 0.0..=1.0)
}

fn label(options: &mut Attributes) -> Parsed<Option<i64>> {
    match options.whole_numbers("mask_value")?.as_deref() {
        None => Ok(None),
        Some(&[label]) => Ok(Some(label)),
        Some(_) => Err("mask_value: expected one whole number".into()),
    }
}

/// An axis of a sample of this rank as one of depth, height, width.
fn axis(number: i64, rank: usize) -> Parsed<usize> {
    let found = usize::try_from(number).ok().filter(|&axis| axis < rank);
    found.map(|axis| axis + 3 - rank).ok_or_else(|| format!("axes: expected 0 to {}, got {number}", rank - 1))
}

/// One number for all axes or one for each; `first` is what images have where volumes have depth.
fn lift<T: Copy>(name: &str, numbers: &[T], rank: usize, first: T) -> Parsed<[T; 3]> {
    match *numbers {
        [one] if rank == 3 => Ok([one; 3]),
        [one] => Ok([first, one, one]),
        [d, h, w] if rank == 3 => Ok([d, h, w]),
        [h, w] if rank == 2 => Ok([first, h, w]),
        _ => Err(format!("{name}: expected 1 or {rank} numbers, got {}", numbers.len())),
    }
}

fn sizes(options: &mut Attributes, name: &str, rank: usize, least: i64, first: usize) -> Parsed<Dims3> {
    /// More is a typing error, and would overflow in products.
    const MOST: i64 = 1 << 20;
    let numbers = options.whole_numbers(name)?.unwrap_or_default();
    let size = |number: i64| {
        let found = usize::try_from(number).ok().filter(|_| (least..=MOST).contains(&number));
        found.ok_or_else(|| format!("{name}: expected whole numbers {least} to {MOST}, got {number}"))
    };
    lift(name, &numbers.into_iter().map(size).collect::<Parsed<Vec<_>>>()?, rank, first)
}
