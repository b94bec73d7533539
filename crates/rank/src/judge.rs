//! How high the next category is ranked: w by NDCG@3, and the lines of the card.

use super::{Model, Parts, SessionCategories};
use coupon_base::Result;
use serde::{Deserialize, Serialize};

/// A session at one of its moments, in the candidates' numbers.
pub(super) struct Moment {
    pub segment: u32,
    pub profile: Vec<(u32, f64)>,
    pub session: SessionCategories,
    /// Category of the next cart or purchase; `u32::MAX` for one that is no candidate.
    pub next: u32,
}

/// How often the next category is ranked high.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Quality {
    pub moments: usize,
    pub hit1: f64,
    pub hit3: f64,
    pub ndcg3: f64,
}

/// One way to rank, and how good it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `alpha`, `hybrid` (α per segment), `popularity`, `zero` or `last_viewed`.
    pub name: String,
    pub alpha: Option<f64>,
    /// Of predicting the shares of the 30 days after T; null where the line predicts none, or there is no customer.
    pub rmse: Option<f64>,
    /// Over all moments; null where there is none.
    pub all: Option<Quality>,
    /// Over the moments whose next category is not the one viewed last.
    pub moved: Option<Quality>,
}

/// One point of the grid of w.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRow {
    pub weight: f64,
    pub ndcg3: f64,
}

/// Asks for an interrupt now and then: a customer takes microseconds.
pub(super) fn pause(i: usize, check: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    if i.is_multiple_of(256) { check() } else { Ok(()) }
}

/// NDCG@3 of w = 0 … 1 in `grid` steps, each customer with the α of the segment. Empty without moments.
pub(super) fn session_weights(
    model: &Model,
    moments: &[Moment],
    grid: usize,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<WeightRow>> {
    let mut tallies = vec![Tally::default(); grid + 1];
    for (i, moment) in moments.iter().enumerate() {
        pause(i, check)?;
        let parts = parts(model, moment);
        let alpha = model.alpha(moment.segment);
        for (step, tally) in tallies.iter_mut().enumerate() {
            let content = model.content(moment.segment, &parts, step as f64 / grid as f64);
            tally.add(position(&parts, &content, alpha, moment.next));
        }
    }
    let row = |(step, tally): (usize, Tally)| {
        Some(WeightRow { weight: step as f64 / grid as f64, ndcg3: tally.quality()?.ndcg3 })
    };
    Ok(tallies.into_iter().enumerate().filter_map(row).collect())
}

/// The card's lines: one α everywhere, from 0 to 1 in `grid` steps; the hybrid; popularity; zero; last viewed. Their
/// RMSE is the trainer's.
pub(super) fn lines(
    model: &Model,
    moments: &[Moment],
    grid: usize,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Line>> {
    let names = std::iter::repeat_n("alpha", grid + 1).chain(["hybrid", "popularity", "zero", "last_viewed"]);
    let mut tallies: Vec<[Tally; 2]> = vec![Default::default(); grid + 5];
    for (i, moment) in moments.iter().enumerate() {
        pause(i, check)?;
        let parts = parts(model, moment);
        let content = model.content(moment.segment, &parts, model.session_weight());
        let hybrid = |alpha: f64| position(&parts, &content, alpha, moment.next);
        let moved = moment.session.last() != Some(moment.next);
        let mut add = |line: usize, position: Option<usize>| {
            tallies[line][0].add(position);
            if moved {
                tallies[line][1].add(position);
            }
        };
        for step in 0..=grid {
            add(step, hybrid(step as f64 / grid as f64));
        }
        add(grid + 1, hybrid(model.alpha(moment.segment)));
        add(grid + 2, rank_of(model.popularity(moment.segment), moment.next));
        add(grid + 4, moment.session.weights().position(|(c, _)| c == moment.next));
    }
    let line = |(i, (name, [all, moved])): (usize, (&str, [Tally; 2]))| Line {
        name: name.into(),
        alpha: (i <= grid).then(|| i as f64 / grid as f64),
        rmse: None,
        all: all.quality(),
        moved: moved.quality(),
    };
    Ok(names.zip(tallies).enumerate().map(line).collect())
}

fn parts(model: &Model, moment: &Moment) -> Parts {
    model.parts(moment.segment, &moment.profile, &moment.session)
}

/// Where the next category stands in the order of the score, from 0; None if it is no candidate.
fn position(parts: &Parts, content: &[f64], alpha: f64, next: u32) -> Option<usize> {
    let score = |i: usize| (1.0 - alpha) * parts.collaborative[i] + alpha * content[i];
    position_by(content.len(), score, next)
}

fn rank_of(scores: &[f64], next: u32) -> Option<usize> {
    position_by(scores.len(), |i| scores[i], next)
}

fn position_by(n: usize, score: impl Fn(usize) -> f64, next: u32) -> Option<usize> {
    let next = next as usize;
    if next >= n {
        return None;
    }
    let mine = score(next);
    Some((0..n).filter(|&i| score(i) > mine || (score(i) == mine && i < next)).count())
}

/// Hits so far.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    moments: usize,
    hit1: usize,
    hit3: usize,
    ndcg3: f64,
}

impl Tally {
    /// One category is right, so the ideal DCG is 1 and NDCG@3 is 1 / log₂(2 + position).
    fn add(&mut self, position: Option<usize>) {
        self.moments += 1;
        if let Some(position) = position.filter(|&p| p < 3) {
            self.hit1 += usize::from(position == 0);
            self.hit3 += 1;
            self.ndcg3 += 1.0 / (position as f64 + 2.0).log2();
        }
    }

    fn quality(self) -> Option<Quality> {
        let part = |sum: f64| sum / self.moments as f64;
        (self.moments > 0).then(|| Quality {
            moments: self.moments,
            hit1: part(self.hit1 as f64),
            hit3: part(self.hit3 as f64),
            ndcg3: part(self.ndcg3),
        })
    }
}
