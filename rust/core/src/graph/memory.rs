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

/// Lets outputs take the place of an input that nothing reads after them: fewer bytes pass the caches. For each value the one
/// whose place it has: its own, or that of an earlier value, whose demand then lasts as long as both.
///
/// `demands` are those of the values, which the steps write in this order. Each step has the values that it reads and says
/// which of them, if any, its output may replace. Values without a length are not in the arena.
pub(super) fn share(demands: &mut [Demand], steps: &[(&[usize], Option<usize>)]) -> Vec<usize> {
    let mut owners: Vec<usize> = (0..demands.len()).collect();
    for (number, &(inputs, slot)) in steps.iter().enumerate() {
        let Some(input) = slot.map(|slot| inputs[slot]) else { continue };
        let owner = owners[input];
        let is_read_once = inputs.iter().filter(|&&other| other == input).count() == 1;
        if is_read_once && demands[input].last == number && demands[owner].length == demands[number].length {
            owners[number] = owner;
            demands[owner].last = demands[number].last;
            demands[number].length = 0;
        }
    }
    owners
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

    /// The owners, and the demand of value 1, of these steps, each of which may replace what it reads last. Value 0 is the
    /// caller's; `outputs` are as well, after the run.
    fn shared(steps: &[&[usize]], outputs: &[usize]) -> (Vec<usize>, (usize, usize)) {
        let alone = |number| Demand { length: if number == 0 { 0 } else { 50 }, first: number, last: number };
        let mut demands: Vec<Demand> = (0..steps.len()).map(alone).collect();
        for (number, inputs) in steps.iter().enumerate() {
            inputs.iter().for_each(|&input| demands[input].last = number);
        }
        outputs.iter().for_each(|&output| demands[output].last = steps.len());
        let steps: Vec<(&[usize], Option<usize>)> =
            steps.iter().map(|&inputs| (inputs, inputs.len().checked_sub(1))).collect();
        let owners = share(&mut demands, &steps);
        for (demand, (number, &owner)) in demands.iter().zip(owners.iter().enumerate()) {
            assert_eq!(demand.length, if number == 0 || owner != number { 0 } else { 50 }, "{number} of {owners:?}");
        }
        (owners, (demands[1].first, demands[1].last))
    }

    #[test]
    fn an_output_takes_the_place_of_what_is_not_read_again() {
        // A chain has one place, for as long as its last value is needed.
        assert_eq!(shared(&[&[], &[0], &[0, 1], &[0, 2], &[3, 0]], &[4]), (vec![0, 1, 1, 1, 4], (1, 4)));
        assert_eq!(shared(&[&[], &[0], &[0, 1], &[0, 2]], &[3]), (vec![0, 1, 1, 1], (1, 4)));
        // Read by a later step, or twice by the same one.
        assert_eq!(shared(&[&[], &[0], &[0, 1], &[2, 1]], &[3]), (vec![0, 1, 2, 1], (1, 4)));
        assert_eq!(shared(&[&[], &[0], &[1, 1]], &[2]), (vec![0, 1, 2], (1, 2)));
        // The caller's input, and what the caller asks for.
        assert_eq!(shared(&[&[], &[0]], &[1]), (vec![0, 1], (1, 2)));
        assert_eq!(shared(&[&[], &[0], &[0, 1]], &[1, 2]), (vec![0, 1, 2], (1, 3)));
    }

    #[test]
    fn values_of_another_length_and_steps_that_cannot_keep_their_places() {
        let demand = |length, first, last| Demand { length, first, last };
        let demands = [demand(50, 0, 1), demand(60, 1, 2), demand(60, 2, 3)];
        for (slot, length, owners) in [(Some(0), 50, [0, 0, 2]), (Some(0), 60, [0, 1, 2]), (None, 50, [0, 1, 2])] {
            let mut demands = demands;
            demands[1].length = length;
            assert_eq!(share(&mut demands, &[(&[], None), (&[0], slot), (&[1], None)]), owners);
        }
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
