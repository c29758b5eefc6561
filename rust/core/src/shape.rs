//! The shape of an activation: the only place that knows its layout in memory.
//!
//! Activations are channels-last and contiguous: `[n][d][h][w][c]`. A 2D map has `d = 1`, a vector `d = h = w = 1`.

use std::fmt;

/// Depth, height, width.
pub type Dims3 = [usize; 3];

/// Batch size, spatial size and channels of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Batch size.
    pub n: usize,
    /// Depth: 1 in 2D.
    pub d: usize,
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Shape {
    /// A shape from its batch size, spatial size and channels.
    pub fn new(n: usize, [d, h, w]: Dims3, c: usize) -> Self {
        Self { n, d, h, w, c }
    }

    /// One vector of `c` channels for each of `n` samples.
    pub fn vector(n: usize, c: usize) -> Self {
        Self::new(n, [1; 3], c)
    }

    /// Depth, height, width.
    pub fn dims(&self) -> Dims3 {
        [self.d, self.h, self.w]
    }

    /// Points of one sample.
    pub fn spatial(&self) -> usize {
        self.d * self.h * self.w
    }

    /// Elements of one sample.
    pub fn sample(&self) -> usize {
        self.spatial() * self.c
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.n * self.sample()
    }

    /// Whether there are no elements. Right for shapes too large to count as well.
    pub fn is_empty(&self) -> bool {
        [self.n, self.d, self.h, self.w, self.c].contains(&0)
    }

    /// Elements in all, or `None` where that number does not fit the address space as `f32`.
    pub fn checked_len(&self) -> Option<usize> {
        let factors = [self.d, self.h, self.w, self.c];
        let length = factors.iter().try_fold(self.n, |product, &factor| product.checked_mul(factor))?;
        length.checked_mul(size_of::<f32>()).filter(|&bytes| bytes <= isize::MAX as usize).map(|_| length)
    }

    /// The same shape with another number of channels.
    pub fn with_channels(self, c: usize) -> Self {
        Self { c, ..self }
    }

    /// The same shape with another spatial size.
    pub fn with_dims(self, [d, h, w]: Dims3) -> Self {
        Self { d, h, w, ..self }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, d, h, w, c } = self;
        if *d == 1 { write!(f, "({n}, {h}, {w}, {c})") } else { write!(f, "({n}, {d}, {h}, {w}, {c})") }
    }
}
