//! Training: candidates, similarity, popularity, α by least squares, w by NDCG, and the card that says how good it is.

use super::fit::{Fit, Sums, squares};
use super::judge::{Line, Moment, WeightRow, lines, pause, session_weights};
use super::{Model, SessionCategories, Spec, shares};
use coupon_base::Result;
use coupon_statistics::math::sample;
use serde::{Deserialize, Serialize};

/// One customer who bought before the cut time T, in the 30 days after it, or both. Categories are numbers in
/// [`Training::categories`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Customer {
    pub segment: u32,
    /// Order lines a category before T.
    pub profile: Vec<(u32, f64)>,
    /// Order lines a category in the 30 days after T.
    pub target: Vec<(u32, f64)>,
}

/// What a session viewed, and what came of it. Categories are numbers in [`Training::categories`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Session {
    pub segment: u32,
    /// The customer's order lines a category before the session; empty for an anonymous visitor.
    pub profile: Vec<(u32, f64)>,
    /// The category of each view, in order, without the views that have none.
    pub views: Vec<u32>,
    /// The moments to forecast, in order: how many of these views had been by then, and the category of the next cart or
    /// purchase. The caller leaves out views that are followed by one of the same product within five seconds.
    pub moments: Vec<(usize, u32)>,
}

/// What the ranking is trained on.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    /// The texts of all categories, in the caller's numbering.
    pub categories: &'a [String],
    /// Views of each category before T; missing ones count 0.
    pub viewed: &'a [f64],
    pub customers: &'a [Customer],
    pub sessions: &'a [Session],
}

/// α of one segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlphaRow {
    pub segment: u32,
    pub customers: usize,
    pub alpha: f64,
}

/// What was found, for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Card {
    pub candidates: usize,
    /// Customers with a line of a candidate in the 30 days after T.
    pub customers: usize,
    pub moments: usize,
    /// α₀, over all segments.
    pub alpha: f64,
    pub kappa: f64,
    pub alphas: Vec<AlphaRow>,
    pub session_weight: f64,
    pub session_weights: Vec<WeightRow>,
    pub lines: Vec<Line>,
}

/// Trains the ranking. `check` is called every few hundred customers or moments and may end the work with its error
/// (for an interrupt); 50,000 customers of 256 categories take well under a second.
///
/// Nothing is too little: without customers the ranking is by the session, without categories it is empty.
pub fn train(data: Training, spec: &Spec, seed: u64, check: &mut dyn FnMut() -> Result<()>) -> Result<(Model, Card)> {
    spec.validate()?;
    let Candidates { categories, number } = Candidates::choose(&data, spec);
    let n = categories.len();
    let mut segments: Vec<u32> = data.customers.iter().map(|c| c.segment).collect();
    segments.sort_unstable();
    segments.dedup();
    let mut model = Model {
        alphas: vec![0.5; segments.len() + 1],
        popularity: Vec::new(),
        similarity: Vec::new(),
        categories,
        segments,
        session_weight: spec.session_weight,
        decay: spec.view_decay,
    };

    let mut columns = Columns::new(n, model.alphas.len());
    for (i, customer) in data.customers.iter().enumerate() {
        pause(i, check)?;
        if let Some(history) = shares(number.counts(&customer.profile).into_iter(), n) {
            columns.add(model.row(customer.segment), &history);
        }
    }
    (model.popularity, model.similarity) = columns.finish();

    let mut sums = vec![Sums::default(); model.alphas.len()];
    let mut popularity = 0.0;
    for (i, customer) in data.customers.iter().enumerate() {
        pause(i, check)?;
        let Some(target) = shares(number.counts(&customer.target).into_iter(), n) else { continue };
        let parts = model.parts(customer.segment, &number.counts(&customer.profile), &SessionCategories::default());
        let content = model.content(customer.segment, &parts, 0.0);
        sums[model.row(customer.segment)].add(&target, &parts.collaborative, &content);
        popularity += squares(&target, model.popularity(customer.segment));
    }
    let fit = Fit::new(sums, spec.shrinkage);
    model.alphas = fit.alphas.clone();

    let moments = moments(data.sessions, &number, spec, seed, check)?;
    let session_weights = session_weights(&model, &moments, spec.grid_steps, check)?;
    // The lowest among equals.
    let best = session_weights.iter().rev().max_by(|a, b| a.ndcg3.total_cmp(&b.ndcg3));
    model.session_weight = best.map_or(spec.session_weight, |row| row.weight);

    let mut lines = lines(&model, &moments, spec.grid_steps, check)?;
    for line in &mut lines {
        line.rmse = match line.name.as_str() {
            "alpha" => fit.rmse(n, |_| line.alpha.unwrap_or_default()),
            "hybrid" => fit.rmse(n, |row| fit.alphas[row]),
            "popularity" => fit.root(n, popularity),
            "zero" => fit.root(n, fit.sums[0].target),
            _ => None,
        };
    }
    let row = |(i, &segment): (usize, &u32)| AlphaRow {
        segment,
        customers: fit.sums[i + 1].customers,
        alpha: fit.alphas[i + 1],
    };
    let card = Card {
        candidates: n,
        customers: fit.sums[0].customers,
        moments: moments.len(),
        alpha: fit.alphas[0],
        kappa: fit.kappa,
        alphas: model.segments.iter().enumerate().map(row).collect(),
        session_weight: model.session_weight,
        session_weights,
        lines,
    };
    Ok((model, card))
}

/// The moments that are ranked, drawn by the seed where there are more than enough.
pub(super) fn moments(
    sessions: &[Session],
    number: &Numbers,
    spec: &Spec,
    seed: u64,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Moment>> {
    let all = sessions.iter().map(|s| s.moments.len()).sum();
    let mut drawn = sample(all, spec.max_evaluation_points, seed).into_iter().peekable();
    let (mut n, mut moments) = (0, Vec::with_capacity(drawn.len()));
    for (i, session) in sessions.iter().enumerate() {
        pause(i, check)?;
        let profile = number.counts(&session.profile);
        let (mut views, mut seen) = (session.views.iter(), SessionCategories::default());
        for &(viewed, next) in &session.moments {
            let before = session.views.len() - views.len();
            views.by_ref().take(viewed.saturating_sub(before)).for_each(|&c| seen.push(number.of(c), spec.view_decay));
            if drawn.next_if_eq(&n).is_some() {
                moments.push(Moment {
                    segment: session.segment,
                    profile: profile.clone(),
                    session: seen.clone(),
                    next: number.of(next).unwrap_or(u32::MAX),
                });
            }
            n += 1;
        }
    }
    Ok(moments)
}

/// The ranked categories, and the way from the caller's numbers to theirs.
pub(super) struct Candidates {
    categories: Vec<String>,
    pub number: Numbers,
}

pub(super) struct Numbers(Vec<Option<u32>>);

impl Numbers {
    fn of(&self, category: u32) -> Option<u32> {
        self.0.get(category as usize).copied().flatten()
    }

    fn counts(&self, counts: &[(u32, f64)]) -> Vec<(u32, f64)> {
        counts.iter().filter_map(|&(category, count)| Some((self.of(category)?, count))).collect()
    }
}

impl Candidates {
    /// The most bought before T, then the most viewed, then by text; what was neither bought nor viewed is none.
    pub fn choose(data: &Training, spec: &Spec) -> Candidates {
        let known = |count: f64| if count > 0.0 && count.is_finite() { count.min(1e100) } else { 0.0 };
        let mut bought = vec![0.0; data.categories.len()];
        for &(category, count) in data.customers.iter().flat_map(|c| &c.profile) {
            if let Some(sum) = bought.get_mut(category as usize) {
                *sum += known(count);
            }
        }
        let viewed = |c: usize| data.viewed.get(c).map_or(0.0, |&v| known(v));
        let mut order: Vec<usize> = (0..bought.len()).filter(|&c| bought[c] > 0.0 || viewed(c) > 0.0).collect();
        order.sort_by(|&a, &b| {
            let text = || data.categories[a].cmp(&data.categories[b]);
            bought[b].total_cmp(&bought[a]).then(viewed(b).total_cmp(&viewed(a))).then_with(text)
        });
        order.truncate(spec.candidates);
        let mut categories: Vec<String> = order.iter().map(|&c| data.categories[c].clone()).collect();
        categories.sort_unstable();
        categories.dedup();
        let find = |text: &String| categories.binary_search(text).ok().map(|i| i as u32);
        let number = Numbers(data.categories.iter().map(find).collect());
        Candidates { categories, number }
    }
}

/// Sums over customers for popularity and cosines.
struct Columns {
    n: usize,
    /// Σ shares of each row (overall, then a segment) and category.
    popularity: Vec<f64>,
    /// Σ share · share of each pair of categories.
    products: Vec<f64>,
}

impl Columns {
    fn new(n: usize, rows: usize) -> Columns {
        Columns { n, popularity: vec![0.0; rows * n], products: vec![0.0; n * n] }
    }

    fn add(&mut self, row: usize, history: &[f64]) {
        let bought: Vec<(usize, f64)> = history.iter().copied().enumerate().filter(|(_, s)| *s > 0.0).collect();
        for &(a, share) in &bought {
            self.popularity[a] += share;
            // Row 0 is everybody; a segment of its own is always another row.
            self.popularity[row * self.n + a] += share;
            for &(b, other) in &bought {
                self.products[a * self.n + b] += share * other;
            }
        }
    }

    /// Popularity in shares, where nothing was bought that of everybody, or else uniform; and the cosines.
    fn finish(mut self) -> (Vec<f64>, Vec<f32>) {
        let n = self.n;
        for row in 0..self.popularity.len() / n.max(1) {
            let sum: f64 = self.popularity[row * n..][..n].iter().sum();
            for c in 0..n {
                let fallback = if row == 0 { 1.0 / n as f64 } else { self.popularity[c] };
                let share = &mut self.popularity[row * n + c];
                *share = if sum > 0.0 { *share / sum } else { fallback };
            }
        }
        let norm: Vec<f64> = (0..n).map(|a| self.products[a * n + a].sqrt()).collect();
        let cosine = |i: usize| {
            let (a, b) = (i / n, i % n);
            let scale = norm[a] * norm[b];
            if a == b || scale == 0.0 { 0.0 } else { (self.products[i] / scale) as f32 }
        };
        let similarity = (0..n * n).map(cosine).collect();
        (self.popularity, similarity)
    }
}
