//! What a user says about segments, and what that makes of a customer's variables.

use crate::sessions::{Definition, MOST_VARIABLES, Own, SIX, check_name, parse};
use crate::spec::{self, require};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most clusters a dimension.
pub(super) const MOST_CLUSTERS: usize = 32;
/// How customers become cells. The cells of every method are regrouped by churn rate alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// K-means in each of two dimensions, spending and behaviour (Seo & Yoo, IEEE Access 2022).
    #[default]
    TwoDimensional,
    /// A mixture of Gaussians in each of the same two dimensions.
    GaussianMixture,
    /// Quintiles of recency, frequency and monetary value (Hughes, Strategic Database Marketing, 1994).
    Rfm,
    /// Everybody is in one segment.
    None,
}

/// A variable by its name: one of [`SIX`], or one that an expression defines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Variable {
    pub name: String,
    pub expression: Option<String>,
}

impl TryFrom<Value> for Variable {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Variable, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Own {
            name: String,
            expression: String,
        }
        match value {
            Value::String(name) if SIX.contains(&name.as_str()) => Ok(Variable { name, expression: None }),
            Value::String(name) => Err(format!(
                "there is no variable `{name}`: name one of {}, or define it: {{\"name\": \"{name}\", \"expression\": \"…\"}}",
                SIX.join(", ")
            )),
            own => {
                let Own { name, expression } =
                    serde_json::from_value(own).map_err(|e| format!("a variable is a name, or an object: {e}"))?;
                Ok(Variable { name, expression: Some(expression) })
            }
        }
    }
}

impl From<Variable> for Value {
    fn from(v: Variable) -> Value {
        match v.expression {
            None => Value::String(v.name),
            Some(expression) => serde_json::json!({"name": v.name, "expression": expression}),
        }
    }
}

/// Which variables are taken as ln(1 + x).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Log {
    All(bool),
    Of(Vec<String>),
}

impl Log {
    pub(super) fn covers(&self, name: &str) -> bool {
        match self {
            Log::All(all) => *all,
            Log::Of(names) => names.iter().any(|n| n == name),
        }
    }
}

/// How segments are found. Defaults: `models/segment.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub method: Method,
    /// The variables of the spending dimension …
    pub spending: Vec<Variable>,
    /// … and of the behaviour dimension; methods `two_dimensional` and `gaussian_mixture` read them.
    pub behaviour: Vec<Variable>,
    /// Variables scaled as ln(1 + x) before they are standardised: all, none, or a list of names.
    pub log: Log,
    /// Values below the 1 − q and above the q quantile are pulled to it; null: none is.
    pub clip: Option<f64>,
    /// The elbow, or the lowest BIC, is looked for among 1 … this many clusters a dimension.
    pub max_clusters: usize,
    /// K-means starts from this many seeds a number of clusters; a mixture from three of them at most.
    pub restarts: usize,
    /// Most iterations of one run.
    pub iterations: u64,
    /// A run has converged when an iteration moves its centroids less than this, in standard deviations.
    pub tolerance: f64,
    /// K-means is fitted on at most this many customers, drawn by the seed.
    pub sample: usize,
    /// Strength of the prior that pulls a cell's rate towards the overall rate, in sessions.
    pub prior_sessions: f64,
    /// A group needs this many sessions …
    pub min_sessions: u64,
    /// … and this many buyers; otherwise it joins its nearest.
    pub min_buyers: u64,
    /// No more groups than this.
    pub max_groups: usize,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../../models/segment.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    /// Refuses values out of range with [`Error::Spec`], and expressions with [`Error::Expression`].
    pub fn validate(&self) -> Result<()> {
        require((1..=MOST_CLUSTERS).contains(&self.max_clusters), "max_clusters", "from 1 to 32")?;
        require((1..=100).contains(&self.restarts), "restarts", "from 1 to 100")?;
        require((1..=10_000).contains(&self.iterations), "iterations", "from 1 to 10000")?;
        require(self.tolerance > 0.0 && self.tolerance <= 1.0, "tolerance", "above 0 and at most 1")?;
        require((100..=10_000_000).contains(&self.sample), "sample", "from 100 to 10000000")?;
        require((0.0..=1e9).contains(&self.prior_sessions), "prior_sessions", "from 0 to 1e9")?;
        require((1..=64).contains(&self.max_groups), "max_groups", "from 1 to 64")?;
        require(self.clip.is_none_or(|q| q > 0.5 && q < 1.0), "clip", "null, or a quantile above 0.5 and below 1")?;
        for (key, list) in [("spending", &self.spending), ("behaviour", &self.behaviour)] {
            require(
                (1..=MOST_VARIABLES).contains(&list.len()),
                key,
                &format!("a list of 1 to {MOST_VARIABLES} variables"),
            )?;
        }
        self.validate_variables()
    }

    fn validate_variables(&self) -> Result<()> {
        let mut names: Vec<&str> = Vec::new();
        for v in self.spending.iter().chain(&self.behaviour) {
            check_name(&v.name)?;
            if names.contains(&v.name.as_str()) {
                return Err(Error::Spec(format!("variable `{}` stands twice", v.name)));
            }
            if let Some(expression) = &v.expression {
                if SIX.contains(&v.name.as_str()) {
                    return Err(Error::Spec(format!("`{}` is a variable of the method: name yours otherwise", v.name)));
                }
                parse(&v.name, expression)?;
            }
            names.push(&v.name);
        }
        if let Log::Of(list) = &self.log
            && let Some(unknown) = list.iter().find(|n| !names.contains(&n.as_str()))
        {
            return Err(Error::Spec(format!("log names `{unknown}`, which is no variable of spending or behaviour")));
        }
        Ok(())
    }

    /// The dimensions of the method, each with its variables.
    pub(super) fn dimensions(&self) -> Vec<(&'static str, Vec<Variable>)> {
        let own = |name: &str, expression: &str| Variable { name: name.into(), expression: Some(expression.into()) };
        match self.method {
            Method::TwoDimensional | Method::GaussianMixture => {
                vec![("spending", self.spending.clone()), ("behaviour", self.behaviour.clone())]
            }
            Method::Rfm => vec![
                // A year and a day for who bought nothing: longer than any window.
                ("recency", vec![own("recency", "coalesce(min(days_ago) FILTER (WHERE kind = 'purchase'), 367)")]),
                ("frequency", vec![own("frequency", "count(DISTINCT order_id) FILTER (WHERE kind = 'purchase')")]),
                ("monetary", vec![Variable { name: SIX[0].into(), expression: None }]),
            ],
            Method::None => Vec::new(),
        }
    }

    /// What has to be known of a customer, over a window of so many days.
    pub fn definition(&self, window_days: u32) -> Definition {
        let all = self.dimensions().into_iter().flat_map(|d| d.1);
        let own = all.filter_map(|v| Some(Own { name: v.name, expression: v.expression? })).collect();
        Definition { window_days, own }
    }
}

impl Default for Spec {
    fn default() -> Spec {
        Spec::read(&Value::Null).expect("models/segment.json is valid: a test reads it")
    }
}
