//! Why a session is thought to leave: occlusion (Zeiler & Fergus, ECCV 2014), view by view.

use super::{Model, View};
use coupon_base::Result;

/// Steps between two looks at whether to go on: about a millisecond.
const STEPS: usize = 1024;

/// What one view did to a session's P(churn).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contribution {
    /// Which view of the session, from 0.
    pub view: usize,
    /// P(churn) after it.
    pub churn_after: f64,
    /// P(churn) of the whole session minus that of the session without this view: above 0 where the view speaks for
    /// leaving. `None` for a session's only view, without which nothing is left to score.
    pub contribution: Option<f64>,
}

/// The last `most` views of a session, the most decisive first; equal ones in order of view.
///
/// What comes before an occluded view is scored once for all of them, so that n views cost n + k²/2 steps with
/// k = min(n, `most`), where running every shortened session from its start would cost n·k. `check` is called every few
/// steps and may end the work with its error.
pub fn contributions(
    model: &Model,
    segment: u32,
    views: &[View],
    most: usize,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Contribution>> {
    let (before, last) = views.split_at(views.len().saturating_sub(most));
    let mut steps = 0;
    let mut step = |state: &mut super::State, view: &View| {
        if steps % STEPS == 0 {
            check()?;
        }
        steps += 1;
        Ok(model.step(segment, state, view))
    };
    // The session before the view that is left out next, and what was said of it then.
    let (mut start, mut said) = (model.begin(), None);
    for view in before {
        said = Some(step(&mut start, view)?);
    }
    let mut whole = start.clone();
    let after: Vec<f64> = last.iter().map(|view| step(&mut whole, view)).collect::<Result<_>>()?;
    let Some(&now) = after.last() else { return Ok(Vec::new()) };
    let mut found = Vec::with_capacity(last.len());
    for (i, &churn_after) in after.iter().enumerate() {
        let (mut state, mut without) = (start.clone(), said);
        for view in &last[i + 1..] {
            without = Some(step(&mut state, view)?);
        }
        found.push(Contribution { view: before.len() + i, churn_after, contribution: without.map(|p| now - p) });
        said = Some(step(&mut start, &last[i])?);
    }
    found.sort_by(|a, b| {
        let size = |c: &Contribution| c.contribution.map_or(-1.0, f64::abs);
        size(b).total_cmp(&size(a)).then(a.view.cmp(&b.view))
    });
    Ok(found)
}
