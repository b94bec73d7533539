//! Tuning: the pooled churn network trained on fit with the values that are asked, judged on tune. The judge window is
//! not even encoded: what is chosen here is chosen without it.

use super::{Job, Observer, Report, churn_stage, prepare};
use crate::churn::{self, Example, LossOn, Model, Step, Trainer, View, Vocabulary};
use crate::tune::{self, Search, Space};
use coupon_base::error::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the trials of a study share: the encoded sessions of fit and tune, the specification and the space around it.
pub struct Study {
    spec: churn::Spec,
    tune: tune::Spec,
    space: Space,
    vocabulary: Vocabulary,
    views: Vec<View>,
    /// Views of each session, whether it bought, and its weight.
    sessions: Vec<(usize, bool, f32)>,
    /// Where fit ends among them, and tune begins.
    pub(super) border: usize,
    seed: u64,
    /// What a trial's network may hold.
    pub(super) budget: usize,
}

/// A specification tried, and what it gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// From 1.
    pub number: usize,
    /// Keys of the churn specification.
    pub parameters: Value,
    /// Log loss on tune, a prediction, calibrated as the model would serve; `None` for a trial that failed.
    pub loss: Option<f64>,
    /// On the same predictions.
    pub auroc: Option<f64>,
    /// Epochs trained.
    pub epochs: usize,
    /// The smallest loss of the study so far.
    pub best: bool,
    /// Why it failed.
    pub note: Option<String>,
}

impl Study {
    /// Encodes what all trials read. `job.stages` and `job.base` are not looked at.
    ///
    /// # Errors
    /// [`Error::Spec`] for a space that the specification refuses, [`Error::InsufficientData`] for a log that carries no churn
    /// model, [`Error::Memory`], and what the observer returns.
    pub fn new(job: &Job, tune: &tune::Spec, observer: &mut dyn Observer) -> Result<Study> {
        let spec = &job.spec.churn;
        let trained = churn::Spec {
            epochs: tune.epochs,
            one_cycle_epochs: spec.one_cycle_epochs.min(tune.epochs),
            ..spec.clone()
        };
        let space = Space::new(tune, &trained)?;
        let ground = prepare(job, observer)?;
        spec.enough(ground.sessions.sessions.len(), ground.sessions.buyers())?;
        let [fit, window, _] = ground.windows.clone();
        let known = &ground.sessions.sessions[..window.end];
        if window.is_empty() {
            return Err(Error::InsufficientData("the tune window holds no session".into()));
        }
        let vocabulary = churn_stage::vocabulary(&ground, fit.clone(), observer)?;
        let check = &mut || observer.check();
        let views = churn_stage::encode(job.log, &ground.sessions, &vocabulary, 0..window.end, check)?;
        let sessions = known.iter().zip(&ground.weights).map(|(s, &w)| (s.len(), s.purchased, w)).collect();
        Ok(Study {
            spec: trained,
            tune: tune.clone(),
            space,
            vocabulary,
            views,
            sessions,
            border: fit.end,
            seed: job.seed,
            budget: job.budget.saturating_sub(ground.estimate.beside_trainer()),
        })
    }

    /// The digest of all that a trial's result and its place in the search depend on: what training reads of the log, the
    /// specification, the space and the seed. Trials of one key go on after each other.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let texts = [json!(self.spec), json!(self.tune), json!(self.vocabulary)].map(|v| v.to_string());
        for text in &texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.update(self.seed.to_le_bytes());
        hash.update((self.border as u64).to_le_bytes());
        for (views, purchased, weight) in &self.sessions {
            hash.update((*views as u64).to_le_bytes());
            hash.update([u8::from(*purchased)]);
            hash.update(weight.to_le_bytes());
        }
        for v in &self.views {
            hash.update(v.at.to_le_bytes());
            hash.update([v.kind as u8]);
            [v.page, v.category].iter().chain(&v.attributes).for_each(|t| hash.update(t.to_le_bytes()));
            hash.update(v.price.to_bits().to_le_bytes());
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The search, with the earlier trials of the same key told: their parameters and losses, in order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for parameters that are no point of the space.
    pub fn search(&self, earlier: &[(Value, Option<f64>)]) -> Result<Search> {
        let start = self.space.nearest(&self.spec);
        let mut search = Search::new(self.space.clone(), start, self.tune.initial_points, self.seed);
        for (number, (parameters, loss)) in (1..).zip(earlier) {
            let wrong = || Error::Corrupt(format!("the parameters of stored trial {number} are no point of its space"));
            search.tell(self.space.point(parameters).ok_or_else(wrong)?, *loss);
        }
        Ok(search)
    }

    /// Tries the next point; `None` where none is left.
    ///
    /// # Errors
    /// What the observer returns, and [`Error::InsufficientData`]. A trial that fails is a trial, not an error.
    pub fn next(&self, search: &mut Search, observer: &mut dyn Observer) -> Result<Option<Trial>> {
        observer.check()?;
        let Some(point) = search.ask() else { return Ok(None) };
        let before = search.best();
        let mut trial = Trial {
            number: search.told().len() + 1,
            parameters: json!(self.space.overrides(&point)),
            loss: None,
            auroc: None,
            epochs: 0,
            best: false,
            note: None,
        };
        let trained = self.train(&point, &mut trial, observer);
        match trained.and_then(|model| self.measure(&model, &mut trial, observer)) {
            Ok(()) => {}
            Err(e @ (Error::Cancelled | Error::InsufficientData(_))) => return Err(e),
            Err(e) => trial.note = Some(e.to_string()),
        }
        trial.best = trial.loss.is_some_and(|loss| before.is_none_or(|before| loss < before));
        search.tell(point, trial.loss);
        Ok(Some(trial))
    }

    pub(super) fn train(&self, point: &[f64], trial: &mut Trial, observer: &mut dyn Observer) -> Result<Model> {
        let spec = self.space.apply(&self.spec, point)?;
        let examples = self.examples();
        let (fit, tune) = examples.split_at(self.border);
        let mut trainer = Trainer::new(fit, tune, self.vocabulary.clone(), spec, self.seed, self.budget)?;
        loop {
            observer.check()?;
            match trainer.step()? {
                Step::Epoch(e) => {
                    trial.epochs = e.epoch;
                    observer.report(Report {
                        stage: "tune",
                        step: Some(e.epoch),
                        loss: Some(e.train_loss),
                        validation_loss: e.validation_loss,
                        auroc: e.tune.as_ref().and_then(|m| m.auroc),
                        note: Some(format!("trial {}", trial.number)),
                        ..Report::default()
                    });
                }
                Step::Done => break,
                Step::Batch { .. } | Step::Segment(_) => {}
            }
        }
        trainer.finish()
    }

    /// By the routine that serves and on the same views whatever the length training looked at, or trials of different
    /// `max_length` would be judged on different views.
    fn measure(&self, model: &Model, trial: &mut Trial, observer: &mut dyn Observer) -> Result<()> {
        let card = churn::report(model, &self.examples()[self.border..], &mut || observer.check())?.card;
        let population = match self.spec.loss_on {
            LossOn::EveryView => "live",
            LossOn::LastView => "truncated",
        };
        let metrics = card.find(population, "pooled", None).filter(|m| m.log_loss.is_finite());
        match metrics {
            Some(m) => (trial.loss, trial.auroc) = (Some(m.log_loss), m.auroc),
            None => trial.note = Some("no finite log loss on tune".into()),
        }
        Ok(())
    }

    /// All of segment 0: only the pooled network is trained.
    pub(super) fn examples(&self) -> Vec<Example<'_>> {
        let mut views = self.views.as_slice();
        let one = |&(length, purchased, weight): &(usize, bool, f32)| {
            let (own, rest) = views.split_at(length);
            views = rest;
            Example { views: own, purchased, weight, segment: 0 }
        };
        self.sessions.iter().map(one).collect()
    }
}
