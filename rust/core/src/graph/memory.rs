//! Where things live: one arena, shared by whatever is not needed at the same time.

use std::ops::Range;

use crate::buffer::align_up;

/// Something that needs memory during some steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Elements.
    pub(super) length: usize,
    /// The first step that uses it.
    pub(super) first: usize,
    /// The last step that uses it.
    pub(super) last: usize,
}

/// A place for every demand, and the length of the arena.
///
/// Largest first, each at the lowest place that is free during all of its life: within a few per cent of the lower
/// bound for networks, at no cost to speak of.
pub(super) fn place(demands: &[Demand]) -> (Vec<Range<usize>>, usize) {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|&number| (std::cmp::Reverse(demands[number].length), number));
    let mut places = vec![0..0; demands.len()];
    // Sorted by start.
    let mut placed: Vec<usize> = Vec::new();
    for number in order {
        let demand = demands[number];
        if demand.length == 0 {
            continue;
        }
        let together = |&&other: &&usize| demands[other].first <= demand.last && demand.first <= demands[other].last;
        let mut start = 0;
        for &other in placed.iter().filter(together) {
            let taken: &Range<usize> = &places[other];
            if start + demand.length <= taken.start {
                break;
            }
            start = start.max(align_up(taken.end));
        }
        places[number] = start..start + demand.length;
        let position = placed.partition_point(|&other| places[other].start <= start);
        placed.insert(position, number);
    }
    let length = places.iter().map(|place| place.end).max().unwrap_or(0);
    (places, length)
}

/// Slices of `arena`: the `written` ranges to write to, which overlap nothing, and the `read` ones to read.
///
/// # Panics
/// If a range to be written overlaps another one: the plan would be wrong.
pub(super) fn carve<'a>(
    arena: &'a mut [f32],
    written: &[&Range<usize>],
    read: &[&Range<usize>],
) -> (Vec<&'a mut [f32]>, Vec<&'a [f32]>) {
    let mut cuts: Vec<(&Range<usize>, Option<usize>)> = Vec::with_capacity(written.len() + read.len());
    cuts.extend(written.iter().enumerate().map(|(number, range)| (*range, Some(number))));
    cuts.extend(read.iter().map(|range| (*range, None)));
    cuts.sort_by_key(|(range, _)| (range.start, range.end));
    cuts.dedup_by(|next, kept| next.1.is_none() && kept.1.is_none() && next.0 == kept.0);

    let mut to_write: Vec<&'a mut [f32]> = written.iter().map(|_| &mut [][..]).collect();
    let mut to_read: Vec<(&Range<usize>, &'a [f32])> = Vec::with_capacity(read.len());
    let (mut rest, mut position) = (arena, 0);
    for (range, number) in cuts.into_iter().filter(|(range, _)| !range.is_empty()) {
        let (_, from) = rest.split_at_mut(range.start.checked_sub(position).expect("ranges overlap"));
        let (piece, after) = from.split_at_mut(range.len());
        (rest, position) = (after, range.end);
        match number {
            Some(number) => to_write[number] = piece,
            None => to_read.push((range, piece)),
        }
    }
    let find =
        |range: &&Range<usize>| to_read.iter().find(|(known, _)| known == range).map_or(&[][..], |(_, piece)| *piece);
    let to_read = read.iter().map(find).collect();
    (to_write, to_read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_meet_get_places_that_do_not() {
        let demands: Vec<Demand> =
            (0..60).map(|i| Demand { length: 16 + (i * 37) % 300, first: i, last: i + 1 + (i * 7) % 9 }).collect();
        let (places, length) = place(&demands);
        for (a, b) in (0..60).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let meet = demands[a].first <= demands[b].last && demands[b].first <= demands[a].last;
            let apart = places[a].end <= places[b].start || places[b].end <= places[a].start;
            assert!(!meet || apart, "{a} {b}");
        }
        assert!(length < demands.iter().map(|demand| demand.length).sum::<usize>() / 3);
        assert!(places.iter().all(|place| place.start % 16 == 0));
    }

    #[test]
    fn carving_gives_what_was_asked_for() {
        let mut arena: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let (written, inputs) = carve(&mut arena, &[&(40..50), &(0..0)], &[&(60..70), &(10..20), &(60..70)]);
        assert_eq!((written[0][0], written[1].len()), (40.0, 0));
        assert_eq!((inputs[0][0], inputs[1][0], inputs[2][9]), (60.0, 10.0, 69.0));
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn an_overlap_is_found() {
        carve(&mut [0.0; 100], &[&(40..50)], &[&(45..55)]);
    }
}
