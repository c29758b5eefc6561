//! Whether Winograd's algorithm pays for a layer, and with which tiles.
//!
//! The model counts multiply-adds, and whatever else takes time as the multiply-adds that would take as long. Its constants
//! were measured with `benches/kernels.rs` on two cores with AVX-512, each layer with every kind of tile.

use super::super::blocking::Work;
use super::super::strided;
use super::transform::Axis;
use super::{BLOCK, RESIDENT, SHARED};

/// How far the results of convolutions may be from those of the direct sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Within twice to three times its error.
    #[default]
    Default,
    /// No further from the exact result than it is: F(2) only.
    Strict,
}

impl Precision {
    /// That of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Precision::Default, Precision::Strict].into_iter().find(|precision| precision.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Default => "default",
            Precision::Strict => "strict",
        }
    }
}

/// The tiles: outputs along depth, height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Variant([Axis; 3]);

impl Variant {
    pub(super) fn axes(self) -> [Axis; 3] {
        self.0
    }

    /// All that can compute `work`, or the kernel of stride 1 that `strided` makes of it.
    pub(in super::super) fn all(work: &Work) -> Vec<Variant> {
        let work = strided::Split::new(work).map_or(*work, |split| split.work());
        let window = work.window;
        if work.groups > 1 || window.stride != [1; 3] || window.dilation != [1; 3] {
            return Vec::new();
        }
        let [depth, planar @ ..] = window.kernel;
        let planar: &[Axis] = match planar {
            [3, 3] => &[Axis::F2, Axis::F4],
            [4, 4] => &[Axis::F3],
            _ => return Vec::new(),
        };
        // Tiles of 4 x 4 x 4 have the largest error of all, which grows with the channels that are summed. Where a map is mostly
        // padding there is less to compare it with.
        let cubic = work.input.c <= CUBIC && window.padding.iter().flatten().all(|&padding| padding <= 1);
        let depth: &[Axis] = match depth {
            1 => &[Axis::One],
            3 if cubic => &[Axis::F2, Axis::F4],
            3 => &[Axis::F2],
            4 => &[Axis::F3],
            _ => return Vec::new(),
        };
        let smaller = |&(d, h): &(Axis, Axis)| d.outputs() <= h.outputs();
        let pairs = depth.iter().flat_map(|&d| planar.iter().map(move |&h| (d, h)));
        pairs.filter(smaller).map(|(d, h)| Variant([d, h, h])).collect()
    }

    /// Those that can compute `work` where its input is a map of half the size, each cell of which is read twice along every
    /// axis of 3 taps.
    pub(in super::super) fn enlarging(work: &Work) -> [Variant; 2] {
        [Axis::U2, Axis::U6]
            .map(|axis| Variant(work.window.kernel.map(|taps| if taps == 1 { Axis::One } else { axis })))
    }

    /// For the key of packed weights.
    pub(in super::super) fn name(self) -> String {
        let [d, h, w] = self.0.map(|axis| axis.outputs());
        let enlarged = if self.0.iter().any(|axis| axis.enlarges()) { "enlarged " } else { "" };
        format!("{enlarged}winograd {d}x{h}x{w}")
    }

    /// Whether its error may exceed that of the direct sum.
    fn is_strict(self) -> bool {
        !self.0.iter().any(|axis| matches!(axis, Axis::F3 | Axis::F4))
    }
}

/// Most input channels with which tiles of 4 x 4 x 4 are exact enough.
const CUBIC: usize = 32;
/// Multiply-adds at full speed that take as long as the transforms of one element of V or M, in and out.
const TRANSFORM: [f64; 2] = [18.0, 24.0];
/// As long as reading one transformed weight for the first time in a run.
const STREAM: f64 = 20.0;
/// As long as reading it again, or moving an element of V or M from one core to another.
const MOVE: f64 = 8.0;
/// The same for the weights of the direct algorithm, which are fewer and prefetched.
const DIRECT_STREAM: f64 = 10.0;
/// As long as copying an element for a kernel of stride 2.
const COPY: f64 = 12.0;
/// Gains below this are not worth the error.
const WORTH: f64 = 0.85;

/// The fastest way, or `None` for the direct one.
///
/// Depends on nothing but the layer for one sample, not on threads or on the batch: so do the bits of the result.
pub(in super::super) fn choose(work: &Work, precision: Precision) -> Option<Variant> {
    fastest(work, precision, 1.0, STREAM)
}

/// As [`choose`], where the weights are transformed for every run, and then read, for the whole batch.
pub(in super::super) fn choose_for_training(work: &Work, precision: Precision) -> Option<Variant> {
    /// As long as transforming the weights for one product.
    const TRANSFORM_WEIGHT: f64 = 300.0;
    fastest(work, precision, work.output.n as f64, STREAM + TRANSFORM_WEIGHT)
}

/// The fastest way to compute `work` where its input is a map of half the size, or `None` if that takes longer than `direct`.
pub(in super::super) fn choose_enlarging(work: &Work, direct: f64) -> Option<Variant> {
    let costs = Variant::enlarging(work).map(|variant| (variant.cost(work), variant));
    let (cost, variant) = if costs[0].0 < costs[1].0 { costs[0] } else { costs[1] };
    (cost < direct).then_some(variant)
}

/// The fastest way for so many samples, where making a transformed weight ready takes as long as `ready` multiply-adds.
fn fastest(work: &Work, precision: Precision, samples: f64, ready: f64) -> Option<Variant> {
    let split = strided::Split::new(work);
    let (dense, copy) = split.map_or((*work, 0.0), |split| (split.work(), split.elements() as f64 * COPY));
    let direct = sums(work) * samples + stream(work);
    let cost = |variant: Variant| (variant.sample(&dense) + copy) * samples + ready * variant.weights(&dense);
    Variant::all(work)
        .into_iter()
        .filter(|variant| precision == Precision::Default || variant.is_strict())
        .map(|variant| (cost(variant), variant))
        .filter(|(cost, _)| *cost < WORTH * direct)
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, variant)| variant)
}

/// The fastest way to the gradient of the weights, or `None` for the direct sums.
pub(in super::super) fn choose_for_gradient(work: &Work, precision: Precision) -> Option<Variant> {
    if strided::Split::new(work).is_some() {
        return None;
    }
    let direct = work.flops() as f64 / 2.0;
    Variant::all(work)
        .into_iter()
        .filter(|variant| !variant.0.contains(&Axis::F3))
        .filter(|variant| precision == Precision::Default || variant.is_strict())
        .map(|variant| (variant.gradient_cost(work), variant))
        .filter(|(cost, _)| *cost < WORTH * direct)
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, variant)| variant)
}

/// Time of the direct algorithm for one sample in multiply-adds.
pub(in super::super) fn direct(work: &Work) -> f64 {
    sums(work) + stream(work)
}

/// The part of it that multiplies.
fn sums(work: &Work) -> f64 {
    work.flops() as f64 / work.output.n as f64 / 2.0
}

/// The part of it that reads the weights.
pub(in super::super) fn stream(work: &Work) -> f64 {
    DIRECT_STREAM * (work.window.taps() * work.input.c * work.output.c) as f64
}

impl Variant {
    /// Time of one sample in multiply-adds.
    pub(in super::super) fn cost(self, work: &Work) -> f64 {
        self.sample(work) + STREAM * self.weights(work)
    }

    /// Without reading the weights for the first time: the products, tiles that reach over the border included, the
    /// transforms, what moves between memory and cores.
    fn sample(self, work: &Work) -> f64 {
        let (c, k) = (work.input.c, work.output.c);
        let points: usize = self.0.iter().map(|axis| axis.points()).product();
        let (tiles, products, weights) = (self.tiles(work), self.products(), self.weights(work));
        let elements = (tiles * (points * c + products * k)) as f64;
        // As in the choice of blocks: either weights are read for every block, or threads share V and M.
        let blocks = if weights > RESIDENT as f64 { (elements / BLOCK as f64).ceil() } else { 1.0 };
        let moved = (weights * (blocks - 1.0)).clamp(0.0, 2.0 * elements);
        let transform = TRANSFORM[usize::from(self.0[0] != Axis::One)];
        tiles as f64 * weights + transform * elements + MOVE * moved
    }

    /// Of a tile, for each pair of channels.
    fn products(self) -> usize {
        self.0.iter().map(|axis| axis.products()).product()
    }

    /// Of a sample.
    fn tiles(self, work: &Work) -> usize {
        let dims = work.output.dims();
        (0..3).map(|axis| dims[axis].div_ceil(self.0[axis].outputs())).product()
    }

    /// Transformed weights.
    fn weights(self, work: &Work) -> f64 {
        (self.products() * work.input.c * work.output.c) as f64
    }

    /// Time of the gradient of the weights, of all samples.
    fn gradient_cost(self, work: &Work) -> f64 {
        /// As long as adding an element of d_U to the gradient.
        const FOLD: f64 = 40.0;
        let (tiles, weights) = (work.output.n * self.tiles(work), self.weights(work));
        let elements = (tiles * self.products() * (work.input.c + work.output.c)) as f64;
        // d_U is read and written for every block.
        let blocks = (elements / (SHARED as f64).max(weights / 2.0)).ceil();
        let transform = TRANSFORM[usize::from(self.0[0] != Axis::One)];
        tiles as f64 * weights + transform * elements + (FOLD + 2.0 * MOVE * (blocks - 1.0)) * weights
    }
}
