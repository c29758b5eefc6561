//! Packed weights: made once for each layout, shared by plans, one after the other in long stretches of memory.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use crate::buffer::{Buffer, align_up};

/// Packed weights of a node by layout: plans for different input shapes share them.
pub type Packs = HashMap<String, Packed>;

/// Weights in the layout of a kernel. They can be read once the [`Stretches`] that they are packed to are finished.
#[derive(Clone, Default)]
pub struct Packed(Arc<OnceLock<(Arc<Buffer>, Range<usize>)>>);

impl Packed {
    /// Weights of one step alone, to be packed again whenever they change.
    pub(super) fn own(length: usize) -> Self {
        Self(Arc::new(OnceLock::from((Arc::new(Buffer::zeroed(length)), 0..length))))
    }

    /// The memory, to pack again.
    ///
    /// # Panics
    /// If another step has the same weights.
    pub(super) fn refill(&mut self) -> &mut [f32] {
        let (buffer, range) = Arc::get_mut(&mut self.0).and_then(OnceLock::get_mut).expect("weights of one step alone");
        &mut Arc::get_mut(buffer).expect("weights of one step alone")[range.clone()]
    }
}

/// Who owns the weights that are packed for a step.
pub enum Packing<'a> {
    /// Plans for inference share them, and they are packed at once.
    Shared {
        /// Packed weights of this node made before, for other shapes.
        known: &'a mut Packs,
        /// Where those made now go, to be finished when all nodes have been compiled.
        made: &'a mut Stretches,
    },
    /// The step itself, which packs them whenever it is told that they have changed.
    Own,
}

impl Deref for Packed {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let (buffer, range) = self.0.get().expect("weights are read before their memory is finished");
        &buffer[range.clone()]
    }
}

/// Memory that weights are packed to, in the order of the steps.
///
/// A run reads them in that order: long stretches of huge pages, which the processor prefetches across layers.
#[derive(Default)]
pub struct Stretches {
    buffers: Vec<Buffer>,
    /// Elements that are taken: of the last buffer, and of all.
    taken: [usize; 2],
    /// Which buffer weights are in, and where.
    places: Vec<(Packed, usize, Range<usize>)>,
}

impl Stretches {
    /// Weights that `pack` writes to `length` zeros.
    pub(super) fn pack(&mut self, length: usize, pack: impl FnOnce(&mut [f32])) -> Packed {
        /// Elements of a stretch: no longer than what is there already, or a small network would have a large one.
        const MOST: usize = 16 << 20;
        let [last, all] = &mut self.taken;
        if self.buffers.last().is_none_or(|buffer| buffer.len() - *last < length) {
            self.buffers.push(Buffer::zeroed(length.max(MOST.min(*all))));
            *last = 0;
        }
        let (number, range) = (self.buffers.len() - 1, *last..*last + length);
        let buffer = &mut self.buffers[number];
        pack(&mut buffer[range.clone()]);
        *last = align_up(range.end).min(buffer.len());
        *all += align_up(length);
        let packed = Packed::default();
        self.places.push((packed.clone(), number, range));
        packed
    }

    /// How many weights were packed.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// From now on the weights can be read.
    pub fn finish(self) {
        let buffers: Vec<Arc<Buffer>> = self.buffers.into_iter().map(Arc::new).collect();
        for (packed, number, range) in self.places {
            packed.0.get_or_init(|| (Arc::clone(&buffers[number]), range));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_are_where_they_belong() {
        let lengths = [3, 0, 16, 40, 5, 7, 1000, 1, 17, 900];
        let mut made = Stretches::default();
        let packed = lengths.map(|length| {
            made.pack(length, |values| {
                assert!(values.iter().all(|&value| value == 0.0));
                values.fill(length as f32);
            })
        });
        assert!(made.buffers.len() < lengths.len());
        made.finish();
        for (weights, length) in packed.iter().zip(lengths) {
            assert_eq!(**weights, vec![length as f32; length]);
            assert!(length == 0 || weights.as_ptr().align_offset(crate::buffer::ALIGNMENT) == 0);
        }
    }
}
