//! Stratified splits: every label keeps its share on both sides.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::loss::Target;

/// A split of the indices `0..labels.len()`, both sides ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What remains.
    pub rest: Vec<usize>,
    /// What was taken out.
    pub part: Vec<usize>,
}

/// What a row is counted as when rows of several labels are split: its rarest label, so that rare ones are on both sides.
/// A row without labels is a class of its own.
pub(crate) fn rarest_labels<'a>(targets: impl IntoIterator<Item = &'a Target> + Clone, classes: usize) -> Vec<u32> {
    let mut counts = vec![0usize; classes];
    targets.clone().into_iter().flat_map(|target| &target.ids).for_each(|&label| counts[label as usize] += 1);
    let rarest = |target: &Target| target.ids.iter().copied().min_by_key(|&label| counts[label as usize]);
    targets.into_iter().map(|target| rarest(target).unwrap_or(classes as u32)).collect()
}

/// Takes `share` of the rows out, of each label alike, chosen by `rng`. `labels` holds a label id a row. At least one
/// row of each label remains; of labels with two rows or more at least `minimum` rows are taken.
pub(crate) fn stratified(labels: &[u32], share: f64, minimum: usize, rng: &mut ChaCha8Rng) -> Split {
    let classes = labels.iter().max().map_or(0, |max| *max as usize + 1);
    let mut members = vec![Vec::new(); classes];
    for (index, label) in labels.iter().enumerate() {
        members[*label as usize].push(index);
    }
    // Round down, then give one more row to the labels that lost the largest fraction, until the total is right.
    let exact = |class: &Vec<usize>| class.len() as f64 * share;
    let mut counts: Vec<usize> = members.iter().map(|class| exact(class) as usize).collect();
    let missing = ((labels.len() as f64 * share).round() as usize).saturating_sub(counts.iter().sum());
    let mut order: Vec<usize> = (0..classes).collect();
    order.sort_by(|&a, &b| exact(&members[b]).fract().total_cmp(&exact(&members[a]).fract()));
    order.iter().take(missing).for_each(|&class| counts[class] += 1);
    let mut split = Split { rest: Vec::new(), part: Vec::new() };
    for (mut class, count) in members.into_iter().zip(counts) {
        let most = class.len().saturating_sub(1);
        class.shuffle(rng);
        let (part, rest) = class.split_at(count.max(minimum).min(most));
        split.part.extend(part);
        split.rest.extend(rest);
    }
    split.part.sort_unstable();
    split.rest.sort_unstable();
    split
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};

    #[test]
    fn keeps_shares_and_total() {
        let labels: Vec<u32> = (0..1000).map(|index| u32::from(index % 10 < 3)).collect();
        let split = stratified(&labels, 0.2, 1, &mut generator(0, Stream::Split));
        assert_eq!((split.rest.len(), split.part.len()), (800, 200));
        assert_eq!(split.part.iter().filter(|&&index| labels[index] == 1).count(), 60);
        let mut all = [split.rest, split.part].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn small_classes_are_on_both_sides() {
        let labels = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        let split = stratified(&labels, 0.1, 1, &mut generator(0, Stream::Split));
        assert_eq!(split.part.iter().map(|&index| labels[index]).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn rows_of_several_labels_count_as_their_rarest() {
        let targets: [Target; 4] = [[0].into(), [0, 1].into(), [0].into(), [].into()];
        assert_eq!(rarest_labels(&targets, 2), [0, 1, 0, 2]);
    }

    #[test]
    fn follows_from_the_seed() {
        let labels = [0; 100];
        let part = |seed| stratified(&labels, 0.5, 1, &mut generator(seed, Stream::Split)).part;
        assert_eq!(part(3), part(3));
        assert_ne!(part(3), part(4));
    }
}
