//! Whole tables against the model: budgets after every step, coupons and their audit now and then.

use super::*;

impl Walk {
    pub(super) fn compare_budgets(&mut self) -> Outcome {
        let rows = self.client.query(
            "SELECT b.campaign, CASE b.unit WHEN 'money' THEN 0 ELSE 2 END + (b.day IS NOT NULL)::int, \
                 ARRAY(SELECT (x * CASE b.unit WHEN 'money' THEN 100 ELSE 1 END)::bigint FROM \
                     unnest(ARRAY[b.granted, b.available, b.reserved_amount, b.spent]) WITH ORDINALITY u(x, i) ORDER BY i) \
             FROM coupon.budget b WHERE b.campaign IN ('alpha', 'beta')",
            &[],
        )?;
        let mut found: Vec<(String, i32, Vec<i64>)> = rows.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect();
        found.sort();
        let mut wanted = Vec::new();
        for (i, campaign) in self.model.campaigns.iter().enumerate() {
            for (limit, row) in self.model.budget(i).iter().enumerate() {
                wanted.extend(row.map(|r| (campaign.name.to_string(), limit as i32, r.to_vec())));
            }
        }
        if wanted != found {
            return Err(format!("budgets: wanted {wanted:?}, found {found:?}").into());
        }
        Ok(())
    }

    /// Every coupon: its state, its order, what it took off, and every state that the audit has of it.
    pub(super) fn compare_coupons(&mut self) -> Outcome {
        type Kept = (String, bool, Option<String>, Option<i64>, String);
        let rows = self.client.query(
            "SELECT c.code, c.state, c.closed_at IS NOT NULL, c.order_id, (c.discount_amount * 100)::bigint, \
                 (SELECT string_agg(a.event, ' ' ORDER BY a.id) FROM coupon.audit a WHERE a.name = c.id::text) \
             FROM coupon.coupon c WHERE c.campaign IN ('alpha', 'beta')",
            &[],
        )?;
        let found: BTreeMap<String, Kept> =
            rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3), r.get(4), r.get(5)))).collect();
        let history = |c: &crate::model::Coupon| c.history.iter().map(|s| s.name()).collect::<Vec<_>>().join(" ");
        let kept = |c: &crate::model::Coupon| -> Kept {
            (c.state.name().into(), c.closed, c.order.clone(), c.discount, history(c))
        };
        let wanted: BTreeMap<String, Kept> = self.model.coupons.iter().map(|c| (c.code.clone(), kept(c))).collect();
        for (code, kept) in &wanted {
            if found.get(code) != Some(kept) {
                return Err(format!("coupon {code}: wanted {kept:?}, found {:?}", found.get(code)).into());
            }
        }
        if wanted.len() != found.len() {
            return Err(format!("{} coupons, and the server has {}", wanted.len(), found.len()).into());
        }
        Ok(())
    }
}
