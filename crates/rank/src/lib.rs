//! rank: a customer's history and the running session → product categories in the order of the hybrid score.
//!
//! ```text
//! score = (1 − α) · collaborative + α · content            α per segment
//! content = (1 − w) · history + w · session
//! ```
//!
//! Both scores are *shares over the candidate categories*: non-negative, sum 1. (With raw sums or counts the best α is 1
//! and worse than predicting nothing.)
//!
//! * *History*: the shares of the customer's order lines.
//! * *Session*: the shares of the running session's views, the latest weighing most ([`SessionCategories`]).
//! * *Collaborative*: item-based collaborative filtering. Two categories are as similar as the cosine of their columns
//!   in the matrix of customers' shares; a category scores the sum of its similarities to the customer's categories,
//!   itself excluded, weighted by their shares.
//! * Where a score would be zero everywhere, it is the popularity in the segment instead, or else overall, or else
//!   uniform. Without a history (anonymous) content is the session alone; without views it is the history alone.
//!
//! Categories are numbered by [`Model::categories`], which is sorted: equal scores rank in the order of the text.

mod fit;
mod judge;
mod session;
#[cfg(test)]
mod tests;
mod train;

pub use judge::{Line, Quality, WeightRow};
pub use session::SessionCategories;
pub use train::{AlphaRow, Card, Customer, Session, Training, train};

use coupon_base::Error;
use coupon_base::Result;
use coupon_base::spec::{self, require};
use coupon_base::weights::{Reader, Writer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the ranking is trained. Defaults: `models/rank.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Only so many categories are ranked: the most bought, then the most viewed.
    pub candidates: usize,
    /// What a view of the running session still weighs after the next one.
    pub view_decay: f64,
    /// κ is this many times the mean Σ d² of a customer: how many customers a segment needs before its own α counts.
    pub shrinkage: f64,
    /// w where there is no moment to choose it by.
    pub session_weight: f64,
    /// α is published and w is chosen on a grid of this many steps from 0 to 1.
    pub grid_steps: usize,
    /// At most so many moments are ranked to choose w, drawn by the seed.
    pub max_evaluation_points: usize,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../models/rank.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    /// Refuses values out of range with [`Error::Spec`].
    pub fn validate(&self) -> Result<()> {
        require((1..=2048).contains(&self.candidates), "candidates", "from 1 to 2048")?;
        require((0.0..=1.0).contains(&self.view_decay), "view_decay", "from 0 to 1")?;
        require(self.shrinkage >= 0.0 && self.shrinkage <= 1e9, "shrinkage", "from 0 to 1e9")?;
        require((0.0..=1.0).contains(&self.session_weight), "session_weight", "from 0 to 1")?;
        require((1..=1000).contains(&self.grid_steps), "grid_steps", "from 1 to 1000")?;
        require((1..=10_000_000).contains(&self.max_evaluation_points), "max_evaluation_points", "from 1 to 10000000")
    }
}

impl Default for Spec {
    fn default() -> Spec {
        Spec::read(&Value::Null).expect("models/rank.json is valid: a test reads it")
    }
}

/// A category and its scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Number of the category in [`Model::categories`].
    pub category: u32,
    pub score: f64,
    pub collaborative: f64,
    pub content: f64,
    pub alpha: f64,
}

/// What `rank_categories` evaluates.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The candidates, sorted by text.
    pub categories: Vec<String>,
    /// Segments that have their own α and popularity, ascending.
    segments: Vec<u32>,
    /// α overall, then of each segment.
    alphas: Vec<f64>,
    /// Shares of the categories, overall, then in each segment: (1 + segments) × categories.
    popularity: Vec<f64>,
    /// Cosines of category columns, categories × categories; the diagonal is 0.
    similarity: Vec<f32>,
    session_weight: f64,
    decay: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    categories: Vec<String>,
    segments: Vec<u32>,
}

/// The parts of the score, each a share of every category.
struct Parts {
    collaborative: Vec<f64>,
    /// None where the customer has no line in any candidate.
    history: Option<Vec<f64>>,
    /// None where the session has no view of any candidate.
    session: Option<Vec<f64>>,
}

impl Model {
    /// The number of a category, if it is a candidate.
    pub fn index(&self, category: &str) -> Option<u32> {
        self.categories.binary_search_by(|c| c.as_str().cmp(category)).ok().map(|i| i as u32)
    }

    /// α of a segment; the pooled one where the segment was not seen in training.
    pub fn alpha(&self, segment: u32) -> f64 {
        self.alphas[self.row(segment)]
    }

    /// w, the part of the running session in the content of a customer with a history.
    pub fn session_weight(&self) -> f64 {
        self.session_weight
    }

    /// What a view of the running session still weighs after the next one.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// The highest segment that has an α of its own.
    pub fn highest_segment(&self) -> u32 {
        self.segments.last().copied().unwrap_or(0)
    }

    /// Counts a view of a category in a running session, as training did.
    pub fn view(&self, session: &mut SessionCategories, category: &str) {
        session.push(self.index(category), self.decay);
    }

    /// The `k` categories with the highest score, the highest first, equal ones by text.
    ///
    /// `profile` counts the customer's order lines a category (empty for an anonymous visitor), in any order;
    /// categories that are no candidates and counts that are not positive and finite are ignored.
    pub fn rank(&self, segment: u32, profile: &[(u32, f64)], session: &SessionCategories, k: usize) -> Vec<Ranked> {
        let parts = self.parts(segment, profile, session);
        let content = self.content(segment, &parts, self.session_weight);
        let alpha = self.alpha(segment);
        let ranked = |(i, (&collaborative, &content)): (usize, (&f64, &f64))| Ranked {
            category: i as u32,
            score: (1.0 - alpha) * collaborative + alpha * content,
            collaborative,
            content,
            alpha,
        };
        let mut all: Vec<Ranked> = parts.collaborative.iter().zip(&content).enumerate().map(ranked).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(k);
        all
    }

    fn row(&self, segment: u32) -> usize {
        self.segments.binary_search(&segment).map_or(0, |i| i + 1)
    }

    fn popularity(&self, segment: u32) -> &[f64] {
        let n = self.categories.len();
        &self.popularity[self.row(segment) * n..][..n]
    }

    fn parts(&self, segment: u32, profile: &[(u32, f64)], session: &SessionCategories) -> Parts {
        let history = shares(profile.iter().copied(), self.categories.len());
        let collaborative = history.as_deref().and_then(|history| self.collaborative(history));
        Parts {
            collaborative: collaborative.unwrap_or_else(|| self.popularity(segment).to_vec()),
            history,
            session: shares(session.weights(), self.categories.len()),
        }
    }

    fn collaborative(&self, history: &[f64]) -> Option<Vec<f64>> {
        let n = self.categories.len();
        let mut scores = vec![0.0; n];
        for (bought, &share) in history.iter().enumerate().filter(|(_, s)| **s > 0.0) {
            for (score, &similarity) in scores.iter_mut().zip(&self.similarity[bought * n..][..n]) {
                *score += share * f64::from(similarity);
            }
        }
        normalise(scores)
    }

    fn content(&self, segment: u32, parts: &Parts, w: f64) -> Vec<f64> {
        match (&parts.history, &parts.session) {
            (Some(history), Some(session)) => history.iter().zip(session).map(|(h, s)| (1.0 - w) * h + w * s).collect(),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => self.popularity(segment).to_vec(),
        }
    }

    /// The model as safetensors bytes: α, popularity and the session's w and decay as f64, similarity as f32, texts in
    /// the metadata.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (n, rows) = (self.categories.len(), self.alphas.len());
        Writer::default()
            .f64("alpha", &[rows], &self.alphas)
            .f64("popularity", &[rows, n], &self.popularity)
            .f32("similarity", &[n, n], &self.similarity)
            .f64("session", &[2], &[self.session_weight, self.decay])
            .finish(&Meta { categories: self.categories.clone(), segments: self.segments.clone() })
    }

    /// Reads what [`Model::to_bytes`] wrote; [`Error::Corrupt`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        let reader = Reader::new(bytes)?;
        let Meta { categories, segments } = reader.meta()?;
        let (n, rows) = (categories.len(), segments.len() + 1);
        let session = reader.f64("session", &[2])?;
        let model = Model {
            alphas: reader.f64("alpha", &[rows])?,
            popularity: reader.f64("popularity", &[rows, n])?,
            similarity: reader.f32("similarity", &[n, n])?,
            categories,
            segments,
            session_weight: session[0],
            decay: session[1],
        };
        let share = |v: &f64| (0.0..=1.0).contains(v);
        let sorted = model.categories.is_sorted_by(|a, b| a < b) && model.segments.is_sorted_by(|a, b| a < b);
        let shares = model.alphas.iter().chain(&model.popularity).chain(&session).all(share);
        // A cosine may be rounded to just above 1.
        let cosines = model.similarity.iter().all(|s| (0.0..=1.001).contains(s));
        if sorted && shares && cosines {
            Ok(model)
        } else {
            Err(Error::Corrupt("ranking: a list is not in order, or a share is not between 0 and 1".into()))
        }
    }
}

/// Counts as shares over `n` categories; None where nothing counts.
fn shares(counts: impl Iterator<Item = (u32, f64)>, n: usize) -> Option<Vec<f64>> {
    let mut shares = vec![0.0; n];
    // The bound keeps sums finite, whatever was counted.
    for (category, count) in counts.filter(|&(c, count)| (c as usize) < n && count > 0.0 && count.is_finite()) {
        shares[category as usize] += count.min(1e100);
    }
    normalise(shares)
}

/// Non-negative values divided by their sum; None where that is 0 (or too small to divide by).
fn normalise(mut values: Vec<f64>) -> Option<Vec<f64>> {
    let sum: f64 = values.iter().sum();
    (sum > 1e-300).then(|| values.iter_mut().for_each(|v| *v /= sum))?;
    Some(values)
}
