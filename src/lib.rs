//! The glue of `coupon_ext`: decode → call → encode. What is computed stands in `coupon_model`, what SQL says well in `sql/`.

// pg_extern reads the columns of a returned table from the signature itself, which no alias can shorten.
#![allow(clippy::type_complexity)]

mod click;
mod models;
mod pg;
mod shop;
mod train;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../sql/schema.sql", bootstrap);
extension_sql_file!("../sql/operations/storage.sql");
extension_sql_file!("../sql/events.sql", requires = ["storage"]);
extension_sql_file!("../sql/watch.sql", requires = ["events"]);
extension_sql_file!("../sql/ddl.sql", requires = ["watch"]);
extension_sql_file!("../sql/sessions.sql", requires = ["ddl"]);
extension_sql_file!("../sql/segment.sql", requires = ["sessions"]);
extension_sql_file!("../sql/churn.sql", requires = ["segment"]);
extension_sql_file!("../sql/score.sql", requires = ["churn"]);
extension_sql_file!("../sql/rank.sql", requires = ["score"]);
extension_sql_file!("../sql/campaign.sql", requires = ["rank"]);
extension_sql_file!("../sql/lock.sql", requires = ["campaign"]);
extension_sql_file!("../sql/budget.sql", requires = ["lock"]);
extension_sql_file!("../sql/fund.sql", requires = ["budget"]);
extension_sql_file!("../sql/rules.sql", requires = ["fund"]);
extension_sql_file!("../sql/issue.sql", requires = ["rules"]);
extension_sql_file!("../sql/attempt.sql", requires = ["issue"]);
extension_sql_file!("../sql/redeem.sql", requires = ["attempt"]);
extension_sql_file!("../sql/results.sql", requires = ["redeem"]);
extension_sql_file!("../sql/operations/access.sql", requires = ["results"]);
extension_sql_file!("../sql/operations/privacy.sql", requires = ["access"]);
extension_sql_file!("../sql/train.sql", requires = ["privacy"]);
extension_sql_file!("../sql/operations/versions.sql", requires = ["train"]);
extension_sql_file!("../sql/tune.sql", requires = ["versions"]);
extension_sql_file!("../sql/simulate.sql", requires = ["tune"]);
extension_sql_file!("../sql/operations/grants.sql", finalize);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::settings::define();
}
