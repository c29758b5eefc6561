//! A smooth random displacement: a cubic B-spline whose control points are moved at random.
//!
//! Control points stand `spacing` apart, one more beyond each border than the cubic needs. At position `x`, with
//! `u = x / spacing`, `i` its whole part and `f` the rest, the displacement is the sum over four neighbours along each axis
//! of `B_k(f)` times control point `i + k`; the weights are
//! `(1 - f)³ / 6, (3 f³ - 6 f² + 4) / 6, (-3 f³ + 3 f² + 3 f + 1) / 6, f³ / 6`.

use crate::buffer::{OutOfMemory, zeros};
use crate::parallel::Pool;
use crate::rng::Stream;
use crate::shape::Dims3;

/// The displacement of every point.
#[derive(Clone, Debug)]
pub(super) struct Field {
    dims: Dims3,
    /// Three for each point.
    values: Vec<f32>,
}

impl Field {
    /// Control points that are normal with standard deviation `magnitude` along each axis.
    pub(super) fn draw(
        dims: Dims3,
        spacing: Dims3,
        magnitude: [f32; 3],
        stream: &mut Stream,
        pool: &Pool,
    ) -> Result<Self, OutOfMemory> {
        let grid: Dims3 = std::array::from_fn(|axis| (dims[axis] - 1) / spacing[axis] + 4);
        let mut controls = zeros(grid.iter().product::<usize>() * 3)?;
        for control in controls.chunks_exact_mut(3) {
            for (value, magnitude) in control.iter_mut().zip(magnitude) {
                *value = magnitude * stream.normal();
            }
        }
        let [_, h, w] = dims;
        let mut values = zeros(dims.iter().product::<usize>() * 3)?;
        pool.for_each_chunk(&mut values, w * 3, |row, values| {
            let (zs, ys) = (weights(row / h, spacing[0]), weights(row % h, spacing[1]));
            // The control points of this row, summed over the two other axes.
            let mut line = vec![[0.0f32; 3]; grid[2]];
            for (z, z_weight) in zs {
                for (y, y_weight) in ys {
                    let controls = controls[(z * grid[1] + y) * grid[2] * 3..].chunks_exact(3);
                    for (sum, control) in line.iter_mut().zip(controls) {
                        for (sum, control) in sum.iter_mut().zip(control) {
                            *sum += z_weight * y_weight * control;
                        }
                    }
                }
            }
            for (x, value) in values.chunks_exact_mut(3).enumerate() {
                for (x, weight) in weights(x, spacing[2]) {
                    for (value, control) in value.iter_mut().zip(line[x]) {
                        *value += weight * control;
                    }
                }
            }
        });
        Ok(Self { dims, values })
    }

    /// The displacement of the point nearest to `position`.
    pub(super) fn at(&self, position: [f32; 3]) -> [f32; 3] {
        let point = flat(self.dims, position);
        std::array::from_fn(|axis| self.values[point * 3 + axis])
    }
}

/// The number of the point nearest to `position`, inside a sample.
pub(super) fn flat(dims: Dims3, position: [f32; 3]) -> usize {
    let [z, y, x] = std::array::from_fn(|axis| (position[axis].round().max(0.0) as usize).min(dims[axis] - 1));
    (z * dims[1] + y) * dims[2] + x
}

/// The four control points around `position` and their weights.
fn weights(position: usize, spacing: usize) -> [(usize, f32); 4] {
    let (i, f) = (position / spacing, (position % spacing) as f32 / spacing as f32);
    let (square, cube) = (f * f, f * f * f);
    let weights =
        [(1.0 - f) * (1.0 - f) * (1.0 - f), 3.0 * cube - 6.0 * square + 4.0, 3.0 * (square - cube + f) + 1.0, cube];
    std::array::from_fn(|k| (i + k, weights[k] / 6.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::run_with;

    #[test]
    fn weights_sum_to_one_and_are_smooth() {
        for position in 0..20 {
            let here = weights(position, 5);
            assert!((here.iter().map(|(_, weight)| weight).sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(here.iter().all(|(_, weight)| (0.0..=2.0 / 3.0 + 1e-6).contains(weight)));
        }
    }

    #[test]
    fn neighbours_move_together_and_axes_of_images_stay() {
        let draw = |threads| {
            run_with(threads, |pool| {
                let mut stream = Stream::new(3, 4, 5);
                Field::draw([1, 30, 40], [1, 8, 8], [0.0, 4.0, 4.0], &mut stream, pool).unwrap()
            })
        };
        let field = draw(1);
        assert_eq!(field.values, draw(3).values);
        let mut largest = 0.0f32;
        for y in 0..30 {
            for x in 0..39 {
                let [here, next] = [x, x + 1].map(|x| field.at([0.0, y as f32, x as f32]));
                assert_eq!(here[0], 0.0);
                largest = largest.max(here[1].abs());
                // The slope of a cubic B-spline is at most a difference of neighbouring control points over the spacing.
                assert!((here[1] - next[1]).abs() < 4.0 * 8.0 / 8.0, "{here:?} {next:?}");
            }
        }
        assert!(largest > 1.0);
    }
}
