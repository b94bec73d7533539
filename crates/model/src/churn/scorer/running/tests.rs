//! The changes of a session, against its inputs view by view.

use super::*;
use crate::churn::inputs::{FeatureState, RECENCY_DECAY};
use crate::churn::simd::tests::with_each_level;
use crate::churn::tests::view;
use crate::churn::{Features, simd::TILE, simd::running_product};
use proptest::prelude::*;

/// Views that differ, or that say again and again what a few say, at other times and prices.
fn session() -> impl Strategy<Value = Vec<View>> {
    let different = prop::collection::vec(view(), 0..150);
    let few =
        (prop::collection::vec(view(), 1..20), prop::collection::vec((any::<prop::sample::Index>(), view()), 0..150));
    let again = few.prop_map(|(few, times)| {
        times.into_iter().map(|(of, now)| View { at: now.at, price: now.price, ..few[of.index(few.len())] }).collect()
    });
    prop_oneof![different, again]
}

#[test]
fn what_is_said_again_is_summed_up_once() {
    let layout = Layout::new(Features::Rich, 3, 3, &[3]);
    let say = |page| View { at: 0, kind: Kind::View, page, category: 2, price: 1.0, attributes: [2; MAX_ATTRIBUTES] };
    let mut running = IncrementalFeatures::default();
    running.fill(&layout, &[2, 3, 2, 2, 4].map(say));
    // Page 2: kind, page, category and attribute; then kind and page before.
    assert_eq!(running.changes().shared, [4, 6]);
    assert_eq!(running.said.iter().map(|said| said.views).collect::<Vec<_>>(), [3, 1, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The changes, summed up, are what the tracker writes view by view; and the product with them is the product
    /// with its inputs, in each version of the loops and whatever the width.
    #[test]
    fn changes_sum_up_to_the_inputs(
        views in session(),
        [pages, categories] in prop::array::uniform2(0usize..7),
        width in prop_oneof![1usize..100, Just(TILE), Just(4 * TILE)],
    ) {
        let layout = Layout::new(Features::Rich, pages, categories, &[3, 0, 2]);
        let mut running = IncrementalFeatures::default();
        // Buffers that another session has used.
        running.fill(&layout, &views[..views.len() / 2]);
        running.fill(&layout, &views);
        let changes = running.changes();
        prop_assert_eq!(changes.ends.len(), views.len());
        let weights: Vec<f32> = (0..layout.inputs() * width).map(|i| ((i * 7919) % 201) as f32 * 0.01 - 1.0).collect();
        let bias: Vec<f32> = (0..width).map(|j| j as f32 * 0.01).collect();

        let (mut tracker, mut inputs, mut from) = (FeatureState::new(&layout), Vec::new(), 0);
        let (mut stays, mut fades) = (vec![0.0f32; layout.inputs()], vec![0.0f32; layout.inputs()]);
        let mut wanted = Vec::new();
        for (t, (view, &ends)) in views.iter().zip(changes.ends).enumerate() {
            if t % FRESH == 0 {
                stays.fill(0.0);
                fades.fill(0.0);
            }
            fades.iter_mut().for_each(|x| *x *= RECENCY_DECAY);
            let mut alone = vec![0.0f32; layout.inputs()];
            for (to, end) in [&mut stays, &mut fades, &mut alone].into_iter().zip(ends) {
                for &(i, x) in &changes.entries[from..end as usize] {
                    changes.inputs(i as usize).for_each(|input| to[input] += x);
                }
                from = end as usize;
            }
            tracker.advance(&layout, view, &mut inputs);
            let mut dense = vec![0.0f32; layout.inputs()];
            inputs.iter().for_each(|&(i, x)| dense[i as usize] = x);
            for (i, x) in dense.iter().enumerate() {
                let ours = stays[i] + fades[i] + alone[i];
                prop_assert!((ours - x).abs() < 2e-6, "input {i} of view {t}: {ours} against {x}");
            }
            wanted.extend((0..width).map(|j| {
                let sum: f64 = inputs.iter().map(|&(i, x)| f64::from(x) * f64::from(weights[i as usize * width + j])).sum();
                sum + f64::from(bias[j])
            }));
        }
        with_each_level(|level| {
            let mut out = vec![f32::NAN; views.len() * width];
            let mut packed = vec![f32::NAN; changes.rows() * TILE];
            running_product(&mut out, &bias, &changes, &weights, &mut packed, RECENCY_DECAY);
            for (ours, wanted) in out.iter().zip(&wanted) {
                assert!((f64::from(*ours) - wanted).abs() < 2e-5, "{ours} against {wanted} with {level:?}");
            }
        });
    }
}
