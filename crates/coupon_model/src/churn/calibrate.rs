//! From logits to probabilities that mean what they say.
//!
//! Three layers, each with the data that can carry it. [`Platt`]'s line puts the logit and the view number on tune's
//! scale, held near the network's own by a prior. From a thousand buyers on, isotonic regression bends it. At last the
//! level is shifted to that of the whole log before judge: tune is a tenth of it, and the share of buyers in so short a
//! window is mostly chance (on `clickstream` .210 in tune, .227 before judge, .237 in judge).

use crate::math::{Observation, logistic, sigmoid, softplus};

/// Buying and leaving sessions on tune that a calibrator of one's own needs.
const MIN_SESSIONS: usize = 30;
/// Buying and leaving sessions that isotonic regression needs: with fewer the steps follow chance.
const MIN_ISOTONIC: usize = 1000;
/// Sessions of the rarer outcome behind each bin, and the most bins.
const PER_BIN: usize = 50;
const MAX_KNOTS: usize = 64;
/// Beyond this a probability could not be told from 0 or 1.
const MAX_LOGIT: f64 = 30.0;

/// One scored view: the raw logit of churn, its number in the session (1..), whether the session churned, its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scored {
    pub logit: f32,
    pub number: u32,
    pub churned: bool,
    pub weight: f32,
}

/// Logit and view number → P(churn): strictly between 0 and 1, rising strictly with the logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrator {
    platt: Platt,
    /// (line's logit, calibrated logit), both strictly rising, at most 64; straight between, parallel beyond. Empty: the line.
    curve: Vec<[f64; 2]>,
}

impl Calibrator {
    /// Changes nothing.
    pub const IDENTITY: Calibrator =
        Calibrator { platt: Platt { slope: 1.0, views: 0.0, intercept: 0.0 }, curve: Vec::new() };

    /// logit' = slope · logit + views · ln(view number) + intercept.
    #[cfg(test)]
    pub(super) fn line(slope: f64, views: f64, intercept: f64) -> Calibrator {
        Calibrator { platt: Platt { slope, views, intercept }, curve: Vec::new() }
    }

    /// P(churn).
    pub fn probability(&self, logit: f32, number: u32) -> f64 {
        sigmoid(self.logit(logit, number))
    }

    /// Log loss of a scored view.
    pub(super) fn loss(&self, s: &Scored) -> f64 {
        let z = self.logit(s.logit, s.number);
        softplus(if s.churned { -z } else { z })
    }

    fn logit(&self, logit: f32, number: u32) -> f64 {
        let line = self.platt.logit(logit, number);
        let above = self.curve.partition_point(|knot| knot[0] <= line);
        let z = match (above.checked_sub(1).map(|i| self.curve[i]), self.curve.get(above)) {
            (None, None) => line,
            (Some([x, y]), None) | (None, Some(&[x, y])) => y + (line - x),
            (Some([x0, y0]), Some(&[x1, y1])) => y0 + (line - x0) / (x1 - x0) * (y1 - y0),
        };
        z.clamp(-MAX_LOGIT, MAX_LOGIT)
    }

    /// Fitted to the sessions of tune, each within `spread` of `centre` as far as they are silent; the level from `past`
    /// too: the same network's scores in the fit window, which tell its level but not its slope, being what it was fitted
    /// to. `None` where tune has too few buyers or leavers, or where its curve does not rise.
    pub(super) fn fit<'s>(
        tune: impl Iterator<Item = &'s [Scored]>,
        past: impl Iterator<Item = &'s [Scored]>,
        centre: &Calibrator,
        spread: f64,
    ) -> Option<Calibrator> {
        let tune = Sample::new(tune);
        let rarer = tune.outcomes.into_iter().min()?;
        if rarer < MIN_SESSIONS {
            return None;
        }
        let mut fitted = Calibrator { platt: tune.platt(centre.platt, spread)?, curve: Vec::new() };
        if rarer >= MIN_ISOTONIC {
            fitted.curve = tune.isotonic(&fitted.platt, (rarer / PER_BIN).min(MAX_KNOTS));
        }
        fitted.shift(level(tune.offset(&fitted), Sample::new(past).offset(&fitted)));
        Some(fitted)
    }

    /// Adds to every calibrated logit.
    fn shift(&mut self, by: f64) {
        match self.curve.is_empty() {
            true => self.platt.intercept += by,
            false => self.curve.iter_mut().for_each(|knot| knot[1] += by),
        }
    }

    /// Named numbers with their shapes, as they are stored; read back by [`Calibrator::from_tensors`].
    pub(super) fn tensors(&self) -> Vec<(&'static str, Vec<usize>, Vec<f64>)> {
        let Platt { slope, views, intercept } = self.platt;
        let mut tensors = vec![("calibrator", vec![3], vec![slope, views, intercept])];
        if !self.curve.is_empty() {
            tensors.push(("calibrator.curve", vec![self.curve.len(), 2], self.curve.concat()));
        }
        tensors
    }

    /// `line` and `curve` (empty where there is none) as they were stored, all finite.
    pub(super) fn from_tensors(line: [f64; 3], curve: &[f64]) -> std::result::Result<Calibrator, &'static str> {
        let [slope, views, intercept] = line;
        let (knots, rest) = curve.as_chunks::<2>();
        if !rest.is_empty() || knots.len() > MAX_KNOTS || !knots.is_sorted_by(|a, b| a[0] < b[0] && a[1] < b[1]) {
            return Err("a calibration curve that does not rise, or is too long");
        }
        if slope <= 0.0 {
            return Err("a calibration line that does not rise");
        }
        Ok(Calibrator { platt: Platt { slope, views, intercept }, curve: knots.to_vec() })
    }
}

/// Where to put the level, as an offset in logits, from what tune and the past say (offset and information each).
///
/// The past's word is discounted by the drift τ² = max(0, (tune − past)² − 4 · both variances), what two standard errors
/// do not explain: until there both count by their size, after a clear jump tune counts alone. (The usual moment
/// estimator subtracts one variance; it sees a drift in a third of all logs without one.)
fn level(tune: Option<(f64, f64)>, past: Option<(f64, f64)>) -> f64 {
    let (Some((tune, i)), Some((past, j))) = (tune, past) else { return 0.0 };
    let drift = ((tune - past).powi(2) - 4.0 * (1.0 / i + 1.0 / j)).max(0.0);
    let j = 1.0 / (1.0 / j + drift);
    (i * tune + j * past) / (i + j)
}

/// The line: Platt scaling with the view number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Platt {
    slope: f64,
    views: f64,
    intercept: f64,
}

impl Platt {
    fn logit(&self, logit: f32, number: u32) -> f64 {
        let z = self.slope * f64::from(logit) + self.views * f64::from(number.max(1)).ln() + self.intercept;
        z.clamp(-MAX_LOGIT, MAX_LOGIT)
    }
}

/// Scored sessions. The views of one session share one outcome, so that all views together count as so many
/// observations as there are sessions, not as their own number.
struct Sample {
    views: Vec<Scored>,
    /// Sessions that bought, that left.
    outcomes: [usize; 2],
    /// What a view's weight is multiplied by.
    share: f64,
}

impl Sample {
    fn new<'s>(sessions: impl Iterator<Item = &'s [Scored]>) -> Sample {
        let (mut views, mut outcomes) = (Vec::new(), [0; 2]);
        for session in sessions {
            if let Some(first) = session.first() {
                outcomes[usize::from(first.churned)] += 1;
            }
            views.extend_from_slice(session);
        }
        let total: f64 = views.iter().map(|s: &Scored| f64::from(s.weight)).sum();
        let sessions: usize = outcomes.iter().sum();
        Sample { views, outcomes, share: if total > 0.0 { sessions as f64 / total } else { 0.0 } }
    }

    fn weight(&self, s: &Scored) -> f64 {
        self.share * f64::from(s.weight)
    }

    /// Penalised maximum likelihood: each number is expected within `spread` of `centre`'s. `None` where it does not end
    /// in a rising line: then the logits are better left alone.
    fn platt(&self, centre: Platt, spread: f64) -> Option<Platt> {
        let views = self.views.iter().map(|s| Observation {
            inputs: [f64::from(s.logit), f64::from(s.number.max(1)).ln(), 1.0],
            offset: 0.0,
            outcome: s.churned,
            weight: self.weight(s),
        });
        let fit = logistic(views, [centre.slope, centre.views, centre.intercept], 1.0 / (spread * spread))?;
        let [slope, views, intercept] = fit.weights;
        (slope > 0.0).then_some(Platt { slope, views, intercept })
    }

    /// Isotonic regression of the outcome on the line's logit: the pool-adjacent-violators algorithm over bins of equal
    /// mass, its blocks drawn at their centres, so that the curve rises strictly and no two sessions tie that did not
    /// (centred isotonic regression, Oron and Flournoy 2017). A session at the line's own probability is added to each bin:
    /// no block is ever at 0 or 1.
    fn isotonic(&self, line: &Platt, bins: usize) -> Vec<[f64; 2]> {
        let mut rows: Vec<(f64, f64, f64)> = self
            .views
            .iter()
            .map(|s| (line.logit(s.logit, s.number), f64::from(u8::from(s.churned)), self.weight(s)))
            .collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = rows.iter().map(|r| r.2).sum();
        // Sums of weight · logit, weight · outcome, weight.
        let mut sums = vec![[0.0; 3]; bins];
        let mut mass = 0.0;
        for tied in rows.chunk_by(|a, b| a.0 == b.0) {
            let weight: f64 = tied.iter().map(|r| r.2).sum();
            let bin = &mut sums[(((mass + 0.5 * weight) / total * bins as f64) as usize).min(bins - 1)];
            for (x, y, w) in tied {
                *bin = [bin[0] + w * x, bin[1] + w * y, bin[2] + w];
            }
            mass += weight;
        }
        // Blocks: mean logit, mean outcome, weight.
        let mut blocks: Vec<[f64; 3]> = Vec::with_capacity(bins);
        for [x, y, w] in sums.into_iter().filter(|sum| sum[2] > 0.0) {
            let x = x / w;
            let mut block = [x, (y + sigmoid(x)) / (w + 1.0), w + 1.0];
            while let Some(last) = blocks.pop_if(|last| last[0] >= block[0] || last[1] >= block[1]) {
                let w = last[2] + block[2];
                let mean = |k: usize| (last[k] * last[2] + block[k] * block[2]) / w;
                block = [mean(0), mean(1), w];
            }
            blocks.push(block);
        }
        blocks.into_iter().map(|[x, p, _]| [x, (p / (1.0 - p)).ln()]).collect()
    }

    /// What added to every calibrated logit makes the mean probability the share that was seen, and the information
    /// behind it (the inverse of its variance). `None` where only one outcome was seen.
    fn offset(&self, calibrator: &Calibrator) -> Option<(f64, f64)> {
        if self.outcomes.contains(&0) {
            return None;
        }
        let logits: Vec<f64> = self.views.iter().map(|s| calibrator.logit(s.logit, s.number)).collect();
        let views = self.views.iter().zip(&logits).map(|(s, &offset)| Observation {
            inputs: [1.0],
            offset,
            outcome: s.churned,
            weight: self.weight(s),
        });
        let fit = logistic(views, [0.0], 0.0)?;
        Some((fit.weights[0], fit.information[[0, 0]]))
    }
}

#[cfg(test)]
mod tests;
