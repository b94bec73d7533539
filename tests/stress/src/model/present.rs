//! A presented code, and an order that was cancelled.

use super::*;

impl Model {
    fn blocked(&self, presenter: Option<&str>) -> bool {
        let many = |&(since, count): &(i64, u32)| count >= MAX_ATTEMPTS && since >= self.at - WINDOW;
        let Some(presenter) = presenter else { return false };
        self.strangers.get(presenter).is_some_and(many) || self.here.get(presenter).is_some_and(many)
    }

    fn count_stranger(&mut self, presenter: Option<&str>) {
        let Some(presenter) = presenter else { return };
        for counts in [&mut self.strangers, &mut self.here] {
            let counted = counts.entry(presenter.to_string()).or_insert((self.at, 0));
            *counted = if counted.0 < self.at - WINDOW { (self.at, 1) } else { (counted.0, counted.1 + 1) };
        }
    }

    pub fn present(&mut self, p: &Presented) -> Answer {
        let at = self.at;
        let presenter = match (p.customer, p.session) {
            (Some(customer), _) => Some(format!("customer {customer}")),
            (None, Some(session)) => Some(format!("session {session}")),
            (None, None) => None,
        };
        let holder = |c: &Coupon| {
            p.session == Some(c.session.as_str()) || p.customer.is_some() && p.customer == c.customer.as_deref()
        };
        let found = self.coupons.iter().position(|c| c.code == p.code && holder(c));
        let (Some(i), false) = (found, self.blocked(presenter.as_deref())) else {
            self.count_stranger(presenter.as_deref());
            return answer("refused", "not valid", None);
        };
        let c = &self.coupons[i];
        let reserved = c.reserved(at);
        let same_order = p.order.is_some() && p.order == c.order.as_deref();
        let refused = |reason| answer("refused", reason, None);
        if c.state == State::Redeemed {
            return if same_order {
                answer("redeemed", "redeemed before", c.discount)
            } else {
                refused("already redeemed")
            };
        }
        if reserved && p.order.is_some() && !same_order {
            return refused("reserved for another order");
        }
        if c.closed || c.expires <= at && !reserved {
            return refused("expired");
        }
        if p.amount.is_some_and(|a| a < c.terms.minimum_basket) {
            return refused("below the minimum basket");
        }
        let clash = |(j, o): (usize, &Coupon)| {
            j != i
                && p.order.is_some()
                && o.order.as_deref() == p.order
                && (o.state == State::Redeemed || o.reserved(at))
                && (o.terms.exclusive
                    || c.terms.exclusive
                    || o.terms.stacking.is_some() && o.terms.stacking == c.terms.stacking)
        };
        if self.coupons.iter().enumerate().any(clash) {
            return refused("not with the order's other coupon");
        }
        // Of the order, what its other coupons leave.
        let takes = |(j, o): (usize, &Coupon)| match (j != i && o.order.as_deref() == p.order, o.state) {
            (true, State::Redeemed) => o.discount.unwrap_or(0),
            (true, State::Reserved) if !o.closed && o.reserved(at) => o.promised.unwrap_or(0),
            _ => 0,
        };
        let free = p.amount.map(|a| a - self.coupons.iter().enumerate().map(takes).sum::<i64>());
        if p.order.is_some() && p.amount.is_some_and(|a| a > 0) && free.is_some_and(|f| f <= 0) {
            return refused("nothing is left of the order");
        }
        let discount = p.amount.map(|a| c.terms.on(a).min(free.unwrap_or(a)));
        let c = &mut self.coupons[i];
        match p.action {
            Action::Reserve if reserved => {
                c.promised = discount.or(c.promised);
                answer("reserved", "reserved before", discount)
            }
            Action::Reserve => {
                c.enter(State::Reserved, p.order);
                c.promised = discount;
                c.reserved_until = at + p.ttl;
                answer("reserved", "ok", discount)
            }
            Action::Redeem => {
                c.enter(State::Redeemed, p.order);
                c.closed = true;
                c.promised = None;
                c.discount = discount;
                answer("redeemed", "ok", discount)
            }
            Action::Show => {
                if c.state == State::Issued {
                    c.enter(State::Shown, None);
                }
                answer("shown", "ok", None)
            }
            Action::Dismiss => {
                if matches!(c.state, State::Issued | State::Shown) {
                    c.enter(State::Dismissed, None);
                }
                answer("dismissed", "ok", None)
            }
        }
    }

    pub fn release(&mut self, code: &str, order: &str) -> Answer {
        let found = self.coupons.iter().position(|c| c.code == code && c.order.as_deref() == Some(order));
        let Some(i) = found else { return answer("refused", "not taken for this order", None) };
        let c = &self.coupons[i];
        match c.state {
            State::Released => answer("released", "released before", None),
            State::Redeemed | State::Reserved if c.state == State::Redeemed || !c.closed => {
                let discount = c.discount;
                let again = self.lives_again(i);
                let c = &mut self.coupons[i];
                c.discount = None;
                c.promised = None;
                c.closed = !again;
                c.enter(State::Released, None);
                answer("released", if again { "valid again" } else { "no longer valid" }, discount)
            }
            _ => answer("refused", "expired", None),
        }
    }

    /// A cancelled order's coupon lives again while it is valid, the session has no other, and its worst case can be held.
    fn lives_again(&mut self, i: usize) -> bool {
        let at = self.at;
        let (session, campaign, day) = (self.coupons[i].session.clone(), self.coupons[i].campaign, self.coupons[i].day);
        if self.coupons[i].expires <= at {
            return false;
        }
        self.coupons.iter_mut().filter(|c| c.session == session && c.due(at)).for_each(Coupon::expire);
        if (0..self.coupons.len()).any(|j| j != i && self.coupons[j].session == session && !self.coupons[j].closed) {
            return false;
        }
        if !self.coupons[i].closed {
            return true;
        }
        // What it took off is back already when the worst case is asked for.
        let need = self.coupons[i].terms.worst_case() - self.coupons[i].discount.expect("it was redeemed");
        let room = |granted: Option<i64>, day| {
            let (held, spent) = self.committed(campaign, day);
            granted.is_none_or(|g| g - held - spent >= need)
        };
        room(self.campaigns[campaign].limits[0], None)
            && room(self.campaigns[campaign].days.get(&day).copied(), Some(day))
    }
}
