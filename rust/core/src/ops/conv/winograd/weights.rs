//! The transformed weights: `U[product][c][k] = scale[k] * Σ_tap G_d G_h G_w weight[k][c][tap]`, a matrix in panels for each product.

use super::super::weights::Weights;
use super::transform::Axis;
use crate::gemm::Panels;
use crate::parallel::{Pool, SharedMut};

/// Transforms in float64 and rounds once. `panels` cut the matrix (c, k) of one product.
pub(super) fn pack(weights: &Weights<'_>, axes: [Axis; 3], panels: Panels, packed: &mut [f32], pool: &Pool) {
    let Weights { channels, taps, .. } = *weights;
    let products: usize = axes.iter().map(|axis| axis.products()).product();
    let packed = SharedMut::new(packed);
    pool.for_each(panels.count(), |index| {
        let panel = panels.panel(index);
        let stride = panel.columns.next_multiple_of(panels.lanes());
        for c in 0..channels {
            // A row of output channels for each tap, then for each product.
            let mut rows = Vec::with_capacity(taps * panel.columns);
            for tap in 0..taps {
                rows.extend(
                    (panel.column..panel.column + panel.columns)
                        .map(|k| f64::from(weights.raw(k, c, tap)) * f64::from(weights.scale(k))),
                );
            }
            let mut inner = panel.columns;
            for axis in [2, 1, 0] {
                rows = expand(&rows, axes[axis], inner);
                inner *= axes[axis].products();
            }
            for (product, row) in rows.chunks_exact(panel.columns).enumerate() {
                let start = start(&panels, products, index, product) + c * stride;
                // SAFETY: panels do not overlap.
                let to = unsafe { packed.slice_mut(start..start + panel.columns) };
                to.iter_mut().zip(row).for_each(|(to, from)| *to = *from as f32);
            }
        }
    });
}

/// Where the weights of a panel for a product start: all products of a panel follow each other.
pub(super) fn start(panels: &Panels, products: usize, index: usize, product: usize) -> usize {
    let panel = panels.panel(index);
    products * panel.start + product * panel.vectors * panels.lanes() * panels.rows
}

/// `(outer, taps, inner)` to `(outer, products, inner)`.
fn expand(values: &[f64], axis: Axis, inner: usize) -> Vec<f64> {
    let mut expanded = Vec::with_capacity(values.len() / axis.taps() * axis.products());
    for taps in values.chunks_exact(axis.taps() * inner) {
        for factors in axis.filter() {
            let start = expanded.len();
            expanded.resize(start + inner, 0.0);
            for (values, factor) in taps.chunks_exact(inner).zip(factors) {
                for (to, value) in expanded[start..].iter_mut().zip(values) {
                    *to += factor * value;
                }
            }
        }
    }
    expanded
}
