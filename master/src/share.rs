//! Which part of the workers that a fleet needs is whose: every host finds the same number to be needed and deals it out
//! by the same rule, so that nobody has to lead. Pure.

/// A host among those that serve a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub host: String,
    /// The fewest and the most workers that it has.
    pub min: u32,
    pub max: u32,
}

/// How many of the `target` workers each of the places has, in their order: first what each has at least, then in
/// proportion to what more it may have; what is left of that goes to the largest remainders, and among equals to the
/// host whose name comes first.
#[must_use]
pub fn shares(target: u32, places: &[Place]) -> Vec<u32> {
    let least: Vec<u64> = places.iter().map(|place| u64::from(place.min.min(place.max))).collect();
    let room: Vec<u64> =
        places.iter().zip(&least).map(|(place, least)| u64::from(place.max) - least).collect();
    let floor: u64 = least.iter().sum();
    let target = u64::from(target);
    let dealt = if target <= floor {
        deal(target, &least, places)
    } else {
        let more = deal(target - floor, &room, places);
        least.iter().zip(more).map(|(least, more)| least + more).collect()
    };
    dealt.into_iter().map(|share| u32::try_from(share).unwrap_or(u32::MAX)).collect()
}

/// In proportion to the weights, none over its own.
fn deal(target: u64, weights: &[u64], places: &[Place]) -> Vec<u64> {
    let all: u64 = weights.iter().sum();
    if target >= all {
        return weights.to_vec();
    }
    let product = |weight: &u64| u128::from(target) * u128::from(*weight);
    let whole = |weight: &u64| u64::try_from(product(weight) / u128::from(all)).unwrap_or(u64::MAX);
    let mut dealt: Vec<u64> = weights.iter().map(whole).collect();
    let left = target - dealt.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let remainder = |at: &usize| weights.get(*at).map_or(0, |weight| product(weight) % u128::from(all));
    let name = |at: &usize| places.get(*at).map(|place| &place.host);
    order.sort_by(|a, b| remainder(b).cmp(&remainder(a)).then_with(|| name(a).cmp(&name(b))));
    for at in order.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        dealt.get_mut(at).into_iter().for_each(|share| *share += 1);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(of: &[(&str, u32, u32)]) -> Vec<Place> {
        of.iter().map(|(host, min, max)| Place { host: (*host).to_owned(), min: *min, max: *max }).collect()
    }

    #[test]
    fn it_is_dealt_by_what_each_may_have() {
        let two = places(&[("b", 0, 4), ("a", 0, 4)]);
        assert_eq!(shares(0, &two), [0, 0]);
        assert_eq!(shares(1, &two), [0, 1], "among equals the first name");
        assert_eq!(shares(5, &two), [2, 3]);
        assert_eq!(shares(9, &two), [4, 4]);
        assert_eq!(shares(4, &places(&[("a", 0, 9), ("b", 0, 3), ("c", 0, 0)])), [3, 1, 0]);
        assert_eq!(shares(4, &places(&[("a", 2, 4), ("b", 0, 4)])), [3, 1], "each has its fewest first");
        assert_eq!(shares(1, &places(&[("a", 2, 4), ("b", 2, 4)])), [1, 0], "as far as there are as many");
    }

    proptest! {
        #[test]
        fn together_they_have_what_is_needed_and_none_more_than_it_may(
            target in 0_u32..500,
            of in prop::collection::btree_map("[a-e]{1,3}", (0_u32..20, 0_u32..60), 1..8),
        ) {
            let all: Vec<Place> =
                of.into_iter().map(|(host, (min, max))| Place { host, min, max }).collect();
            let dealt = shares(target, &all);
            let most: u32 = all.iter().map(|place| place.max).sum();
            prop_assert_eq!(dealt.iter().sum::<u32>(), target.min(most));
            let floor: u32 = all.iter().map(|place| place.min.min(place.max)).sum();
            for (place, share) in all.iter().zip(&dealt) {
                prop_assert!(*share <= place.max);
                prop_assert!(target < floor || *share >= place.min.min(place.max));
            }
            // Whoever reckons, and in whichever order it knows of the others.
            let mut turned = all;
            turned.reverse();
            let mut again = shares(target, &turned);
            again.reverse();
            prop_assert_eq!(again, dealt);
        }
    }
}
