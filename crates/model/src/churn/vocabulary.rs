//! The words a model knows, and the one routine that turns a page view's words into numbers.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Spec, View};
use coupon_events::events::{Kind, MAX_ATTRIBUTES, Micros};

/// The texts of one page view, as they are counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'a> {
    pub page: Option<&'a str>,
    pub category: Option<&'a str>,
    pub attributes: [Option<&'a str>; MAX_ATTRIBUTES],
}

/// Known texts by falling frequency. The first is number 2: 0 is absent and 1 is unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    pub pages: Vec<String>,
    pub categories: Vec<String>,
    /// One list an attribute column, at most [`MAX_ATTRIBUTES`].
    pub attributes: Vec<Vec<String>>,
}

impl Vocabulary {
    /// Counts the views of the fit window and keeps the most frequent texts, ties by text.
    ///
    /// `columns` is the number of attribute columns that the shop's tables name; more than [`MAX_ATTRIBUTES`] are cut.
    pub fn build<'a>(spec: &Spec, columns: usize, views: impl IntoIterator<Item = Words<'a>>) -> Vocabulary {
        let columns = columns.min(MAX_ATTRIBUTES);
        let mut counts: [HashMap<&str, u64>; 2 + MAX_ATTRIBUTES] = Default::default();
        for words in views {
            let texts = [words.page, words.category].into_iter().chain(words.attributes.into_iter().take(columns));
            for (count, text) in counts.iter_mut().zip(texts) {
                if let Some(text) = text {
                    *count.entry(text).or_default() += 1;
                }
            }
        }
        let [pages, categories, attributes @ ..] = counts;
        Vocabulary {
            pages: most_frequent(pages, spec.max_pages),
            categories: most_frequent(categories, spec.max_categories),
            attributes: attributes.into_iter().take(columns).map(|c| most_frequent(c, spec.max_attributes)).collect(),
        }
    }

    /// A page view in numbers, the same for training and serving.
    ///
    /// A price that is not finite or below zero counts as unknown; attributes beyond the known columns are ignored.
    pub fn view(
        &self,
        at: Micros,
        kind: Kind,
        page: Option<&str>,
        category: Option<&str>,
        price: Option<f64>,
        attributes: &[Option<&str>],
    ) -> View {
        let mut numbers = [0; MAX_ATTRIBUTES];
        for ((number, known), text) in numbers.iter_mut().zip(&self.attributes).zip(attributes) {
            *number = number_of(known, *text);
        }
        let price = price.map(|p| p as f32).filter(|p| p.is_finite() && *p >= 0.0);
        View {
            at,
            kind,
            page: number_of(&self.pages, page),
            category: number_of(&self.categories, category),
            price: price.unwrap_or(f32::NAN),
            attributes: numbers,
        }
    }
}

fn most_frequent(counts: HashMap<&str, u64>, cap: usize) -> Vec<String> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    counts.truncate(cap);
    counts.into_iter().map(|(text, _)| text.to_owned()).collect()
}

/// A scan beats a hash here: lists are short, and the frequent texts stand first.
fn number_of(known: &[String], text: Option<&str>) -> u16 {
    match text {
        None => 0,
        Some(text) => known.iter().position(|k| k == text).map_or(1, |i| i as u16 + 2),
    }
}
