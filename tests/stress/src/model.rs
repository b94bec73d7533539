//! What `docs/issue.md` says of campaigns and coupons, in integers: money in cents, times in microseconds. Written from
//! the document, so that it can contradict the SQL. One client at a time.

use std::collections::HashMap;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const DAY: i64 = 24 * 60 * MINUTE;
/// The campaigns' time zone is Etc/GMT-3.
const ZONE: i64 = 180 * MINUTE;
const WINDOW: i64 = 10 * MINUTE;
const MAX_ATTEMPTS: u32 = 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Issued,
    Shown,
    Dismissed,
    Reserved,
    Redeemed,
    Released,
    Expired,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Issued => "issued",
            State::Shown => "shown",
            State::Dismissed => "dismissed",
            State::Reserved => "reserved",
            State::Redeemed => "redeemed",
            State::Released => "released",
            State::Expired => "expired",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Discount {
    Percent(i64),
    Money(i64),
}

/// What is copied onto a coupon when it is issued.
#[derive(Clone, Debug)]
pub struct Terms {
    pub discount: Discount,
    pub max_discount: i64,
    pub minimum_basket: i64,
    pub exclusive: bool,
    pub stacking: Option<&'static str>,
    pub valid_for: i64,
}

impl Terms {
    fn worst_case(&self) -> i64 {
        match self.discount {
            Discount::Percent(_) => self.max_discount,
            Discount::Money(amount) => amount.min(self.max_discount),
        }
    }

    fn on(&self, order: i64) -> i64 {
        let off = match self.discount {
            Discount::Percent(percent) => (order * percent + 50) / 100,
            Discount::Money(amount) => amount,
        };
        off.min(self.max_discount).min(order)
    }
}

#[derive(Clone, Debug)]
pub struct Campaign {
    pub name: &'static str,
    pub terms: Terms,
    /// In the order of [`LIMITS`].
    pub limits: [Option<i64>; 4],
    pub per_customer: Option<u32>,
    pub cool_down: Option<i64>,
    pub per_session: usize,
    /// Daily budgets of money that still bound something, by day.
    days: HashMap<i64, i64>,
}

/// Columns of coupon.campaign that bound what is given.
pub const LIMITS: [&str; 4] = ["budget", "budget_day", "coupons", "coupons_day"];

#[derive(Clone, Debug)]
pub struct Coupon {
    pub session: String,
    pub code: String,
    pub campaign: usize,
    pub customer: Option<String>,
    pub terms: Terms,
    pub state: State,
    pub closed: bool,
    pub expires: i64,
    pub day: i64,
    pub reserved_until: i64,
    pub order: Option<String>,
    pub discount: Option<i64>,
    /// What it was said to take off the order it is reserved for.
    pub promised: Option<i64>,
    /// Every state it entered, as the audit must have them.
    pub history: Vec<State>,
}

impl Coupon {
    fn reserved(&self, at: i64) -> bool {
        self.state == State::Reserved && self.reserved_until > at
    }

    fn due(&self, at: i64) -> bool {
        !self.closed && self.expires <= at && !self.reserved(at)
    }

    /// Money of the budget that it takes up: held while it is out, spent once it is redeemed.
    fn money(&self) -> (i64, i64) {
        match (self.closed, self.state) {
            (false, _) => (self.terms.worst_case(), 0),
            (true, State::Redeemed) => (0, self.discount.expect("redeemed for something")),
            (true, _) => (0, 0),
        }
    }

    fn enter(&mut self, state: State, order: Option<&str>) {
        let changed = self.state != state || order.is_some_and(|o| self.order.as_deref() != Some(o));
        self.state = state;
        if let Some(order) = order {
            self.order = Some(order.to_string());
        }
        if changed {
            self.history.push(state);
        }
    }

    fn expire(&mut self) {
        self.closed = true;
        self.enter(State::Expired, None);
    }
}

/// An answer: status, reason, discount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer(pub String, pub String, pub Option<i64>);

fn answer(status: &str, reason: &str, discount: Option<i64>) -> Answer {
    Answer(status.into(), reason.into(), discount)
}

/// A decision as it stands: outcome and reason.
pub type Decision = (String, String);

#[derive(Clone, Default, Debug)]
pub struct Session {
    pub customer: Option<String>,
    pub clicked: i64,
    pub decisions: HashMap<usize, Decision>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Show,
    Dismiss,
    Reserve,
    Redeem,
}

/// Who presents what.
pub struct Presented<'a> {
    pub action: Action,
    pub code: &'a str,
    pub order: Option<&'a str>,
    pub amount: Option<i64>,
    pub ttl: i64,
    pub session: Option<&'a str>,
    pub customer: Option<&'a str>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub at: i64,
    /// In the order in which they are asked.
    pub campaigns: Vec<Campaign>,
    pub coupons: Vec<Coupon>,
    pub sessions: HashMap<String, Session>,
    /// Decisions by campaign and customer.
    counted: HashMap<(usize, String), u32>,
    last: HashMap<String, i64>,
    strangers: HashMap<String, (i64, u32)>,
    /// The same as the connection remembers it, which no ROLLBACK reaches.
    pub here: HashMap<String, (i64, u32)>,
}

impl Campaign {
    pub fn new(name: &'static str, terms: Terms) -> Campaign {
        let (limits, per_customer, cool_down) = ([None; 4], None, None);
        Campaign { name, terms, limits, per_customer, cool_down, per_session: 2, days: HashMap::new() }
    }
}

impl Model {
    pub fn new(at: i64, campaigns: Vec<Campaign>) -> Model {
        let (coupons, sessions) = (Vec::new(), HashMap::new());
        let (counted, last, strangers) = (HashMap::new(), HashMap::new(), HashMap::new());
        Model { at, campaigns, coupons, sessions, counted, last, strangers, here: HashMap::new() }
    }

    pub fn today(&self) -> i64 {
        (self.at + ZONE).div_euclid(DAY)
    }

    /// Held and spent, of all coupons of a campaign or of those of one day.
    fn committed(&self, campaign: usize, day: Option<i64>) -> (i64, i64) {
        let of = self.coupons.iter().filter(|c| c.campaign == campaign && day.is_none_or(|d| d == c.day));
        of.map(Coupon::money).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    fn issued(&self, campaign: usize, day: Option<i64>) -> i64 {
        self.coupons.iter().filter(|c| c.campaign == campaign && day.is_none_or(|d| d == c.day)).count() as i64
    }

    /// Held and spent of what one of [`LIMITS`] counts.
    pub fn used(&self, campaign: usize, limit: usize) -> (i64, i64) {
        let day = (limit % 2 == 1).then(|| self.today());
        if limit < 2 { self.committed(campaign, day) } else { (0, self.issued(campaign, day)) }
    }

    /// Of each limit that is set: granted, available, held, spent.
    pub fn budget(&self, campaign: usize) -> [Option<[i64; 4]>; 4] {
        [0, 1, 2, 3].map(|limit| {
            let (held, spent) = self.used(campaign, limit);
            self.campaigns[campaign].limits[limit].map(|g| [g, g - held - spent, held, spent])
        })
    }

    /// Whether a limit may become so: never below what is committed.
    pub fn set_limit(&mut self, campaign: usize, limit: usize, value: Option<i64>) -> bool {
        let was = self.campaigns[campaign].limits[limit];
        self.campaigns[campaign].limits[limit] = value;
        if self.budget(campaign)[limit].is_some_and(|row| row[1] < 0) {
            self.campaigns[campaign].limits[limit] = was;
            return false;
        }
        if was != value {
            self.open_day(campaign);
        }
        true
    }

    fn open_day(&mut self, campaign: usize) {
        let today = self.today();
        let c = &mut self.campaigns[campaign];
        match c.limits[1] {
            Some(granted) => drop(c.days.insert(today, granted)),
            None => c.days.clear(),
        }
    }

    /// The first rule that keeps a campaign from giving to a session.
    fn admit(&self, campaign: usize, session: &str) -> Option<&'static str> {
        let c = &self.campaigns[campaign];
        let s = &self.sessions[session];
        let decided = s.decisions.values().filter(|d| d.0 != "stopped").count();
        assert!(decided < c.per_session, "not asked");
        let live = |x: &&Coupon| x.session == session && !x.closed && (x.expires > self.at || x.reserved(self.at));
        if self.coupons.iter().any(|x| live(&x)) {
            return Some("one live coupon");
        }
        if let Some(customer) = &s.customer {
            let count = self.counted.get(&(campaign, customer.clone())).copied().unwrap_or(0);
            if c.per_customer.is_some_and(|most| count >= most) {
                return Some("per_customer");
            }
            if let (Some(cool), Some(last)) = (c.cool_down, self.last.get(customer))
                && last + cool > self.at
            {
                return Some("cool_down");
            }
        }
        let rows = self.budget(campaign);
        let need = c.terms.worst_case();
        for (i, day) in [(0, None), (1, Some(self.today()))] {
            // What expired coupons hold comes back before it is missed.
            let of = |x: &&Coupon| x.campaign == campaign && x.due(self.at) && day.is_none_or(|d| d == x.day);
            let back: i64 = self.coupons.iter().filter(of).map(|x| x.money().0).sum();
            if rows[i].is_some_and(|r| r[1] + back < need) {
                return Some(LIMITS[i]);
            }
        }
        (2..4).find(|&i| rows[i].is_some_and(|r| r[1] < 1)).map(|i| LIMITS[i])
    }

    /// A click. `wanted` says which campaigns' policies want the session by now, and their draws, which only the hash
    /// knows; the rest follows. The campaign that issues, if one does: its coupon is the caller's to add.
    pub fn click(&mut self, session: &str, customer: Option<&str>, wanted: &[(usize, f64, f64)]) -> Option<usize> {
        let at = self.at;
        let s = self.sessions.entry(session.to_string()).or_default();
        s.clicked = at;
        if s.customer.is_none() {
            s.customer = customer.map(Into::into);
        }
        for &(campaign, draw, probability) in wanted {
            let s = &self.sessions[session];
            let known = s.decisions.get(&campaign);
            let decided = s.decisions.values().filter(|d| d.0 != "stopped").count();
            if decided >= self.campaigns[campaign].per_session || known.is_some_and(|d| d.0 != "stopped") {
                continue;
            }
            if let Some(rule) = self.admit(campaign, session) {
                let s = self.sessions.get_mut(session).expect("clicked");
                s.decisions.entry(campaign).or_insert(("stopped".into(), rule.into()));
                continue;
            }
            self.make_room(campaign, session);
            let issued = draw < probability;
            let s = self.sessions.get_mut(session).expect("clicked");
            let outcome = if issued { "issued" } else { "held out" };
            s.decisions.insert(campaign, (outcome.into(), "eligible".into()));
            if let Some(customer) = &s.customer {
                *self.counted.entry((campaign, customer.clone())).or_default() += 1;
                self.last.insert(customer.clone(), at);
            }
            return issued.then_some(campaign);
        }
        None
    }

    /// The session's expired coupon is closed, and the campaign's where its budget is short.
    fn make_room(&mut self, campaign: usize, session: &str) {
        let at = self.at;
        self.coupons.iter_mut().filter(|c| c.session == session && c.due(at)).for_each(Coupon::expire);
        let c = &self.campaigns[campaign];
        if c.limits.iter().any(Option::is_some) && c.limits[1].is_some() && !c.days.contains_key(&self.today()) {
            self.open_day(campaign);
        }
        let need = self.campaigns[campaign].terms.worst_case();
        if self.budget(campaign)[..2].iter().flatten().any(|row| row[1] < need) {
            self.expire(Some(campaign), 100);
        }
    }

    pub fn add_coupon(&mut self, campaign: usize, session: &str, code: &str) {
        let terms = self.campaigns[campaign].terms.clone();
        self.coupons.push(Coupon {
            session: session.into(),
            code: code.into(),
            campaign,
            customer: self.sessions[session].customer.clone(),
            expires: self.at + terms.valid_for,
            terms,
            state: State::Issued,
            closed: false,
            day: self.today(),
            reserved_until: i64::MIN,
            order: None,
            discount: None,
            promised: None,
            history: vec![State::Issued],
        });
    }

    /// Closes at most so many expired coupons, the longest expired first.
    pub fn expire(&mut self, campaign: Option<usize>, most: usize) -> usize {
        let at = self.at;
        let of = |c: &Coupon| campaign.is_none_or(|k| k == c.campaign) && c.due(at);
        let mut due: Vec<usize> = (0..self.coupons.len()).filter(|&i| of(&self.coupons[i])).collect();
        due.sort_by_key(|&i| self.coupons[i].expires);
        due.truncate(most);
        due.iter().for_each(|&i| self.coupons[i].expire());
        due.len()
    }
}

mod present;
