//! What a churn model is made of; the defaults are `models/churn.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::inputs::Layout;
use super::net::Shape;
use coupon_base::Error;
use coupon_base::Result;
use coupon_base::spec::{self, require};
use coupon_events::events::MAX_ATTRIBUTES;

/// What a live session's state may take: more would move its row out of line (TOAST) at every click.
const MAX_STATE: usize = 4096;

/// Which views the loss counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// Every view of the complete session, each with the session's weight: right live.
    EveryView,
    /// The last view of the cut (last three dropped): the papers' table.
    LastView,
}

/// How much a view tells the network about the views before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// What the view itself says, and its time.
    Plain,
    /// Also running counts, recency and dwell a page, the previous page, the gap in buckets.
    Rich,
}

/// The recurrent layer's cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RnnType {
    /// Hochreiter & Schmidhuber 1997, with a forget gate.
    Lstm,
    /// Cho et al. 2014, in PyTorch's form: the reset gate acts after the recurrent product.
    Gru,
}

impl RnnType {
    /// Gates of a unit.
    pub(super) fn gates(self) -> usize {
        if self == RnnType::Lstm { 4 } else { 3 }
    }
}

/// How the last outputs become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    Max,
    Mean,
}

/// Layers, inputs and training of a churn model. Unknown keys are refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Channels of a causal convolution over the views before the recurrent layers, 0..=256; 0: none.
    pub conv_channels: usize,
    /// Views the convolution looks over, 1..=8.
    pub conv_kernel: usize,
    pub rnn_type: RnnType,
    /// Stacked recurrent layers, 1..=4.
    pub num_layers: usize,
    /// Units a layer, 1..=256.
    pub hidden_size: usize,
    /// Share of the last layer's outputs zeroed while training, 0..=0.9.
    pub dropout: f32,
    pub pooling: Pooling,
    /// Outputs the pooling looks over, 1..=8.
    pub pool_size: usize,
    /// Views from one pooling window to the next, 1..=8, counted from the first view: between two windows the last one
    /// stands.
    pub pool_stride: usize,
    /// Units of the feed-forward layer, 1..=256.
    pub dense_units: usize,
    pub features: Features,
    /// Most frequent pages with an input of their own, 0..=256.
    pub max_pages: usize,
    /// Most frequent categories with an input of their own, 0..=1024.
    pub max_categories: usize,
    /// Most frequent values of one attribute column, 0..=256.
    pub max_attributes: usize,
    /// Views of a session that training looks at, 1..=500; live scoring goes on.
    pub max_length: usize,
    pub loss_on: LossOn,
    /// How much the rarer outcome's weight is raised while training, 0..=1: its weight is that of the commoner one to
    /// this power (1: both weigh the same). The shift this gives the logits is taken out again.
    pub class_weight_power: f64,
    /// Whether training starts from the active version's networks, words it knows in their new places, at a quarter of
    /// the learning rate.
    pub warm_start: bool,
    /// Whether, once the card is written, what serves is trained anew on all windows.
    pub refit: bool,
    /// Passes over the fit window at most, 1..=10000.
    pub epochs: usize,
    /// Sessions a gradient step, 1..=4096.
    pub batch_size: usize,
    /// Adam's; the peak where there is a cycle. Above 0, at most 1.
    pub learning_rate: f64,
    /// Epochs of the one-cycle schedule (rise, then cosine fall); 0 keeps the rate constant.
    pub one_cycle_epochs: usize,
    /// Epochs without a better log loss on tune before training stops, counted from the cycle's end, 1..=1000.
    pub patience: usize,
    /// Sessions of the fit window a segment needs for a model of its own.
    pub min_sessions: usize,
    /// Buying sessions of the fit window a segment needs for a model of its own.
    pub min_buyers: usize,
    /// Closed sessions the log needs for any model.
    pub min_log_sessions: usize,
    /// Buying sessions the log needs for any model.
    pub min_log_buyers: usize,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../../models/churn.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    /// Refuses values out of range, and a live session's state that is too large, with [`Error::Spec`].
    pub fn validate(&self) -> Result<()> {
        for (name, value, low, high) in [
            ("conv_channels", self.conv_channels, 0, 256),
            ("conv_kernel", self.conv_kernel, 1, 8),
            ("num_layers", self.num_layers, 1, 4),
            ("hidden_size", self.hidden_size, 1, 256),
            ("pool_size", self.pool_size, 1, 8),
            ("pool_stride", self.pool_stride, 1, 8),
            ("dense_units", self.dense_units, 1, 256),
            ("max_pages", self.max_pages, 0, 256),
            ("max_categories", self.max_categories, 0, 1024),
            ("max_attributes", self.max_attributes, 0, 256),
            ("max_length", self.max_length, 1, 500),
            ("epochs", self.epochs, 1, 10_000),
            ("batch_size", self.batch_size, 1, 4096),
            ("one_cycle_epochs", self.one_cycle_epochs, 0, 10_000),
            ("patience", self.patience, 1, 1000),
        ] {
            require((low..=high).contains(&value), name, &format!("from {low} to {high}"))?;
        }
        require((0.0..=0.9).contains(&self.dropout), "dropout", "from 0 to 0.9")?;
        require((0.0..=1.0).contains(&self.class_weight_power), "class_weight_power", "from 0 to 1")?;
        require(self.learning_rate > 0.0 && self.learning_rate <= 1.0, "learning_rate", "above 0 and at most 1")?;
        let largest =
            Layout::new(self.features, self.max_pages, self.max_categories, &[self.max_attributes; MAX_ATTRIBUTES]);
        let bytes = self.state_bytes(&largest);
        if bytes > MAX_STATE {
            return Err(Error::Spec(format!(
                "the state of a live session would take {bytes} bytes, at most {MAX_STATE} are allowed: \
                 lower hidden_size, num_layers, pool_size, conv_channels, max_pages or max_categories"
            )));
        }
        Ok(())
    }

    /// Whether a log of this many closed sessions and buying ones carries a model at all.
    ///
    /// # Errors
    /// [`Error::InsufficientData`] says which number is too small.
    pub fn enough(&self, sessions: usize, buyers: usize) -> Result<()> {
        for (what, have, need) in
            [("closed sessions", sessions, self.min_log_sessions), ("buying sessions", buyers, self.min_log_buyers)]
        {
            if have < need {
                return Err(Error::InsufficientData(format!("{have} {what}, a churn model needs {need}")));
            }
        }
        Ok(())
    }

    /// Bytes of a saved state.
    pub(super) fn state_bytes(&self, layout: &Layout) -> usize {
        super::inputs::FeatureState::HEADER + 4 * (layout.counters() + Shape::new(self, layout.inputs()).memory())
    }
}

impl Default for Spec {
    fn default() -> Spec {
        Spec::read(&Value::Null).expect("models/churn.json is valid: a test reads it")
    }
}
