//! The layout of B: panels of columns as wide as the register tile, each stored row after row.

use crate::simd::Isa;

/// How a matrix of `rows` x `columns` is cut into panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    lanes: usize,
    vectors: usize,
}

/// One panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panel {
    /// Where it starts in the packed matrix.
    pub(crate) start: usize,
    /// Its first column.
    pub(crate) column: usize,
    /// Its columns; the vectors may hold more, which are zero.
    pub(crate) columns: usize,
    /// Vectors in a row.
    pub(crate) vectors: usize,
}

impl Panels {
    /// The panels for the register tile of `isa`.
    pub(crate) fn new(isa: Isa, rows: usize, columns: usize) -> Self {
        let (_, vectors) = isa.tile();
        Self { rows, columns, lanes: isa.lanes(), vectors }
    }

    /// Floats in a vector.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Columns of a whole panel.
    pub(crate) fn width(&self) -> usize {
        self.lanes * self.vectors
    }

    /// The number of panels.
    pub(crate) fn count(&self) -> usize {
        self.columns.div_ceil(self.width())
    }

    /// Columns after rounding up to whole vectors.
    pub(crate) fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(self.lanes)
    }

    /// Elements of the packed matrix.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.padded_columns()
    }

    /// The panel of that index.
    pub(crate) fn panel(&self, index: usize) -> Panel {
        let column = index * self.width();
        let columns = self.width().min(self.columns - column);
        Panel { start: self.rows * column, column, columns, vectors: columns.div_ceil(self.lanes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(panels: &Panels, row: usize, column: usize) -> usize {
        let panel = panels.panel(column / panels.width());
        panel.start + row * panel.vectors * panels.lanes + column - panel.column
    }

    #[test]
    fn panels_cover_every_element_once() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
            for columns in [1, 7, 8, 9, 16, 17, 31, 32, 33, 64, 70] {
                let panels = Panels::new(isa, 3, columns);
                let mut seen = vec![0; panels.len()];
                for row in 0..3 {
                    for column in 0..columns {
                        seen[position(&panels, row, column)] += 1;
                    }
                }
                assert!(seen.iter().all(|&count| count <= 1));
                assert_eq!(seen.iter().sum::<i32>() as usize, 3 * columns);
                let all: usize = (0..panels.count()).map(|j| panels.panel(j).columns).sum();
                assert_eq!(all, columns);
            }
        }
    }
}
