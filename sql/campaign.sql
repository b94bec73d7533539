-- campaign: what may be given to whom, the coupons that were given, and what was noted about both.
CREATE FUNCTION coupon.clock() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'clock_now_wrapper';
COMMENT ON FUNCTION coupon.clock() IS 'The one clock of coupons: now(), or the time the superuser-only setting coupon_ext.mock_clock holds';

CREATE FUNCTION coupon_internal.create_campaign_storage_1() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CREATE TABLE coupon.campaign (
        campaign text PRIMARY KEY CHECK (campaign <> '' AND octet_length(campaign) <= 256),
        state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'shadow', 'live', 'paused', 'ended')),
        priority int NOT NULL DEFAULT 0, salt text NOT NULL DEFAULT gen_random_uuid()::text,
        target float8 NOT NULL DEFAULT 0.0134 CHECK (target >= 0.001 AND target <= 0.5),
        holdout float8 NOT NULL DEFAULT 0.2 CHECK (holdout >= 0.05 AND holdout < 1),
        holdout_next float8 CHECK (holdout_next >= 0.05 AND holdout_next < 1), holdout_from timestamptz,
        per_session int NOT NULL DEFAULT 1 CHECK (per_session > 0),
        categories text[] CHECK (array_position(categories, NULL) IS NULL AND categories <> '{}'),
        zones text[] CHECK (array_position(zones, NULL) IS NULL AND zones <> '{}'),
        discount numeric NOT NULL DEFAULT 10 CHECK (discount > 0 AND discount < 'Infinity'),
        unit text NOT NULL DEFAULT 'percent' CHECK (unit IN ('percent', 'money')),
        currency text NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
        max_discount numeric CHECK (max_discount > 0 AND max_discount < 'Infinity'),
        minimum_basket numeric NOT NULL DEFAULT 0 CHECK (minimum_basket >= 0 AND minimum_basket < 'Infinity'),
        valid_for interval NOT NULL DEFAULT '2 hours'
            CHECK (valid_for > interval '0' AND valid_for <= interval '1 year'),
        display_seconds int NOT NULL DEFAULT 6 CHECK (display_seconds > 0),
        message text NOT NULL DEFAULT '{discount} off {category}, for you, for the next {hours} hours',
        transferable boolean NOT NULL DEFAULT false, code_hashed boolean NOT NULL DEFAULT false,
        exclusive boolean NOT NULL DEFAULT false, stacking_group text CHECK (stacking_group <> ''),
        starts_at timestamptz, ends_at timestamptz, time_zone text NOT NULL DEFAULT 'UTC',
        days int[] CHECK (days <@ '{1,2,3,4,5,6,7}' AND days <> '{}'),
        from_time time, to_time time,
        segments int[] CHECK (0 <= ALL (segments) AND segments <> '{}'),
        minimum_stock numeric CHECK (minimum_stock > 0 AND minimum_stock < 'Infinity'),
        max_traffic int CHECK (max_traffic > 0),
        traffic_window interval NOT NULL DEFAULT '10 minutes'
            CHECK (traffic_window > interval '0' AND traffic_window <= interval '1 day'),
        per_customer int CHECK (per_customer > 0), cool_down interval CHECK (cool_down > interval '0'),
        budget numeric CHECK (budget >= 0 AND budget < 'Infinity'),
        budget_day numeric CHECK (budget_day >= 0 AND budget_day < 'Infinity'),
        coupons bigint CHECK (coupons >= 0), coupons_day bigint CHECK (coupons_day >= 0),
        paced boolean NOT NULL DEFAULT false, unlimited boolean NOT NULL DEFAULT false,
        live_since timestamptz,
        CHECK (unit = 'money' OR discount <= 100),
        CHECK (ends_at > starts_at), CHECK ((from_time IS NULL) = (to_time IS NULL)), CHECK (from_time <> to_time),
        CONSTRAINT budget_needs_max_discount
            CHECK (budget IS NULL AND budget_day IS NULL OR unit = 'money' OR max_discount IS NOT NULL),
        CONSTRAINT pace_needs_a_day CHECK (NOT paced OR budget_day IS NOT NULL OR coupons_day IS NOT NULL));
    COMMENT ON TABLE coupon.campaign IS 'What is given to whom; shadow decides and logs everything and issues nothing. The campaign "default" begins in shadow, with a budget of 100 EUR of which a coupon takes at most 10';
    COMMENT ON COLUMN coupon.campaign.campaign IS 'Its name';
    COMMENT ON COLUMN coupon.campaign.state IS 'draft → shadow → live → paused → ended; only shadow and live decide';
    COMMENT ON COLUMN coupon.campaign.priority IS 'The highest that may give to a session does; then by name';
    COMMENT ON COLUMN coupon.campaign.discount IS 'Percent off one category, or an amount of the currency';
    COMMENT ON COLUMN coupon.campaign.unit IS 'Whether discount is percent or money';
    COMMENT ON COLUMN coupon.campaign.currency IS 'ISO 4217, of all amounts of the campaign and of the orders its coupons are redeemed for';
    COMMENT ON COLUMN coupon.campaign.max_discount IS 'The most that one coupon takes off; a money budget needs it';
    COMMENT ON COLUMN coupon.campaign.minimum_basket IS 'Smallest order amount a coupon is taken for';
    COMMENT ON COLUMN coupon.campaign.valid_for IS 'How long a coupon is valid after it was issued';
    COMMENT ON COLUMN coupon.campaign.display_seconds IS 'How long the pop-up stays';
    COMMENT ON COLUMN coupon.campaign.message IS 'Text of the pop-up; {discount}, {category} and {hours} are filled in';
    COMMENT ON COLUMN coupon.campaign.transferable IS 'Whoever presents the code may use it; otherwise only its session or customer';
    COMMENT ON COLUMN coupon.campaign.code_hashed IS 'Only the SHA-256 of a code is stored; issue_coupon shows it once';
    COMMENT ON COLUMN coupon.campaign.exclusive IS 'A coupon is not taken for an order that uses another one';
    COMMENT ON COLUMN coupon.campaign.stacking_group IS 'At most one coupon of a stacking group is taken for an order; NULL: any number';
    COMMENT ON COLUMN coupon.campaign.target IS 'Share of all sessions that should become eligible';
    COMMENT ON COLUMN coupon.campaign.holdout IS 'Share of eligible sessions that get nothing, so that the effect can be measured';
    COMMENT ON COLUMN coupon.campaign.holdout_next IS 'The share that counts from holdout_from on: a live campaign changes it at the start of a day (UTC)';
    COMMENT ON COLUMN coupon.campaign.holdout_from IS 'When holdout_next begins to count';
    COMMENT ON COLUMN coupon.campaign.starts_at IS 'No decision before; NULL: from the beginning';
    COMMENT ON COLUMN coupon.campaign.ends_at IS 'No decision from then on; coupons that are out stay valid';
    COMMENT ON COLUMN coupon.campaign.time_zone IS 'Of days, hours and the budget''s day; a name PostgreSQL knows';
    COMMENT ON COLUMN coupon.campaign.days IS 'Days of the week, 1 = Monday; NULL: all';
    COMMENT ON COLUMN coupon.campaign.from_time IS 'Decides from this hour of the day on, in time_zone; later than to_time: over midnight, and the day is the one it began on';
    COMMENT ON COLUMN coupon.campaign.to_time IS 'Up to this hour, itself left out';
    COMMENT ON COLUMN coupon.campaign.segments IS 'Only sessions of these segments (0 = unknown or anonymous); NULL: all';
    COMMENT ON COLUMN coupon.campaign.zones IS 'Only when the last click was in one of these zones of the mall; NULL: anywhere';
    COMMENT ON COLUMN coupon.campaign.categories IS 'Only these categories are given; NULL: all';
    COMMENT ON COLUMN coupon.campaign.minimum_stock IS 'Only categories with this much in stock, in the table that coupon.watch_stock() named';
    COMMENT ON COLUMN coupon.campaign.max_traffic IS 'Only while at most so many sessions began within traffic_window';
    COMMENT ON COLUMN coupon.campaign.traffic_window IS 'How far back max_traffic looks';
    COMMENT ON COLUMN coupon.campaign.per_session IS 'Decides only about sessions for which fewer campaigns have decided before';
    COMMENT ON COLUMN coupon.campaign.per_customer IS 'At most so many decisions of this campaign about one customer, held-out ones included';
    COMMENT ON COLUMN coupon.campaign.cool_down IS 'Time since any campaign''s last decision about the customer, held-out ones included';
    COMMENT ON COLUMN coupon.campaign.budget IS 'Money that all coupons together may take off, the worst case of those still out included';
    COMMENT ON COLUMN coupon.campaign.budget_day IS 'The same for the coupons issued on one day of time_zone';
    COMMENT ON COLUMN coupon.campaign.coupons IS 'Coupons that may be issued in all';
    COMMENT ON COLUMN coupon.campaign.coupons_day IS 'Coupons that may be issued on one day of time_zone';
    COMMENT ON COLUMN coupon.campaign.paced IS 'Spreads the day''s budget evenly: ahead of it, fewer of the eligible sessions are issued; coupon.decision logs the probability';
    COMMENT ON COLUMN coupon.campaign.unlimited IS 'Gives without a budget: otherwise a campaign is live only with budget or budget_day, or with coupons or coupons_day that each take off a bounded amount';
    COMMENT ON COLUMN coupon.campaign.salt IS 'Makes this campaign''s draws independent of every other''s. Whoever knows it knows who is held out, so a marketer may not read it, and names the columns he reads: SELECT * is refused to him';
    COMMENT ON COLUMN coupon.campaign.live_since IS 'When it first went live';

    CREATE TABLE coupon.arm (
        campaign text REFERENCES coupon.campaign ON UPDATE CASCADE ON DELETE CASCADE, arm text CHECK (arm <> ''),
        policy text NOT NULL CHECK (policy IN ('at_risk', 'risk', 'random')),
        segments boolean NOT NULL DEFAULT true, ranking text NOT NULL DEFAULT 'personal'
            CHECK (ranking IN ('personal', 'popular')),
        share float8 NOT NULL CHECK (share > 0 AND share <= 1), PRIMARY KEY (campaign, arm));
    COMMENT ON TABLE coupon.arm IS 'The scenarios a campaign compares; every session is assigned to one by hash at its first view';
    COMMENT ON COLUMN coupon.arm.policy IS 'at_risk and risk ask the churn model, and issue nothing under a version without one; random draws the target share';
    COMMENT ON COLUMN coupon.arm.segments IS 'Whether the churn model of the session''s segment scores, or the pooled one';
    COMMENT ON COLUMN coupon.arm.share IS 'Share of sessions; the shares of a campaign are taken in proportion';

    CREATE TABLE coupon.stock_source (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), relation regclass NOT NULL, category name NOT NULL,
        quantity name NOT NULL);
    COMMENT ON TABLE coupon.stock_source IS 'The shop''s table of stock, if coupon.watch_stock() named one';

    CREATE TABLE coupon.decision (
        session text, campaign text, arm text NOT NULL, policy text NOT NULL, segments boolean NOT NULL,
        ranking text NOT NULL, customer text, decided_at timestamptz NOT NULL, clicked_at timestamptz NOT NULL,
        view int NOT NULL, segment int NOT NULL, version bigint NOT NULL, churn float8, max_purchase_probability float8, eta float8,
        tau float8, target float8 NOT NULL, arm_draw float8 NOT NULL, arm_probability float8 NOT NULL,
        issue_draw float8 NOT NULL, issue_probability float8 NOT NULL, pacing_factor float8, category text,
        categories jsonb NOT NULL,
        outcome text NOT NULL CHECK (outcome IN ('issued', 'held out', 'shadow', 'stopped')), reason text NOT NULL,
        PRIMARY KEY (session, campaign));
    CREATE INDEX decision_at ON coupon.decision (decided_at);
    CREATE INDEX decision_customer ON coupon.decision (customer) WHERE customer IS NOT NULL;
    COMMENT ON TABLE coupon.decision IS 'One row when a session first becomes eligible, given a coupon or not: what honest measurement needs';
    COMMENT ON COLUMN coupon.decision.decided_at IS 'coupon.clock() at the decision';
    COMMENT ON COLUMN coupon.decision.arm_draw IS 'The uniform draw that chose the arm; issue_draw the one that issues or holds out';
    COMMENT ON COLUMN coupon.decision.arm_probability IS 'Probability with which the session was put into this arm';
    COMMENT ON COLUMN coupon.decision.issue_probability IS 'Probability of being issued once eligible, pacing included; 0 in shadow and where a rule stopped it';
    COMMENT ON COLUMN coupon.decision.pacing_factor IS 'The factor by which pacing lowered issue_probability; 1 where the campaign is not paced';
    COMMENT ON COLUMN coupon.decision.outcome IS 'stopped: the policy wanted it and a rule of the campaign did not, so it was not eligible; a later click may still make it so';
    COMMENT ON COLUMN coupon.decision.reason IS 'eligible, or the first rule that stopped it';

    CREATE TABLE coupon.coupon (
        session text, id uuid DEFAULT gen_random_uuid(), code text UNIQUE, campaign text NOT NULL, customer text,
        category text, discount numeric NOT NULL, unit text NOT NULL, currency text NOT NULL, max_discount numeric,
        minimum_basket numeric NOT NULL, exclusive boolean NOT NULL, stacking_group text, transferable boolean NOT NULL,
        code_hashed boolean NOT NULL, message text NOT NULL, display_seconds int NOT NULL,
        state text NOT NULL DEFAULT 'issued'
            CHECK (state IN ('issued', 'shown', 'dismissed', 'reserved', 'redeemed', 'released', 'expired')),
        issued_at timestamptz NOT NULL, expires_at timestamptz NOT NULL CHECK (expires_at > issued_at),
        shown_at timestamptz, dismissed_at timestamptz, reserved_at timestamptz, reserved_until timestamptz,
        redeemed_at timestamptz, released_at timestamptz, closed_at timestamptz,
        order_id text, order_amount numeric, discount_amount numeric,
        reserved_amount numeric CHECK (reserved_amount >= 0), budget_day date, promised numeric CHECK (promised >= 0),
        PRIMARY KEY (session, id), CHECK (code_hashed OR code IS NOT NULL),
        CHECK (discount_amount >= 0 AND discount_amount <= order_amount AND discount_amount <= max_discount),
        CHECK ((state = 'redeemed') = (redeemed_at IS NOT NULL)),
        CHECK (state <> 'redeemed' OR num_nulls(order_id, order_amount, discount_amount) = 0),
        CHECK (state NOT IN ('issued', 'shown', 'dismissed') OR order_id IS NULL),
        CHECK (state <> 'reserved' OR num_nulls(order_id, reserved_at, reserved_until) = 0),
        CHECK (state = 'released' OR (state IN ('redeemed', 'expired')) = (closed_at IS NOT NULL)));
    CREATE INDEX coupon_closed ON coupon.coupon (closed_at) WHERE closed_at IS NOT NULL;
    CREATE UNIQUE INDEX coupon_live ON coupon.coupon (session) WHERE closed_at IS NULL;
    CREATE INDEX coupon_expires ON coupon.coupon (expires_at) WHERE closed_at IS NULL;
    CREATE INDEX coupon_campaign ON coupon.coupon (campaign, budget_day);
    CREATE INDEX coupon_order ON coupon.coupon (order_id) WHERE order_id IS NOT NULL;
    CREATE INDEX coupon_customer ON coupon.coupon (customer) WHERE customer IS NOT NULL;
    COMMENT ON TABLE coupon.coupon IS 'Coupons with the terms they were issued under; live while closed_at IS NULL';
    COMMENT ON INDEX coupon.coupon_live IS 'At most one live coupon a session';
    COMMENT ON COLUMN coupon.coupon.code IS 'As normalise_code() writes it; its SHA-256 where hashed, and then NULL until it was shown';
    COMMENT ON COLUMN coupon.coupon.state IS 'issued → shown → dismissed → reserved → redeemed → released or expired; a reservation that ran out counts as none';
    COMMENT ON COLUMN coupon.coupon.reserved_until IS 'When the reservation frees itself';
    COMMENT ON COLUMN coupon.coupon.released_at IS 'When an order that had it was cancelled';
    COMMENT ON COLUMN coupon.coupon.closed_at IS 'When it ceased to be live: redeemed, expired, or released too late';
    COMMENT ON COLUMN coupon.coupon.order_id IS 'The order it is reserved or redeemed for, or was released from';
    COMMENT ON COLUMN coupon.coupon.reserved_amount IS 'Money of the campaign''s budget that is reserved for it: its worst case while it is live; NULL where nothing bounds it';
    COMMENT ON COLUMN coupon.coupon.promised IS 'While it is reserved, what it was said to take off its order; NULL where the amount was not known';
    COMMENT ON COLUMN coupon.coupon.budget_day IS 'The day whose budget it counts in; NULL where there was none';

    CREATE TABLE coupon.redemption_attempt (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, action text NOT NULL,
        session text, customer text, coupon uuid, order_id text, order_amount numeric, status text NOT NULL,
        reason text NOT NULL, times int NOT NULL DEFAULT 1, presenters text CHECK (presenters IN ('unknown', 'blocked')),
        backend int, CHECK ((presenters IS NULL) = (backend IS NULL)));
    CREATE INDEX redemption_attempt_backend ON coupon.redemption_attempt (backend, at) WHERE backend IS NOT NULL;
    CREATE INDEX redemption_attempt_session ON coupon.redemption_attempt (session) WHERE session IS NOT NULL;
    CREATE INDEX redemption_attempt_customer ON coupon.redemption_attempt (customer) WHERE customer IS NOT NULL;
    COMMENT ON TABLE coupon.redemption_attempt IS 'Every presented code, accepted or not, of transactions that committed';
    COMMENT ON COLUMN coupon.redemption_attempt.times IS 'Attempts that are counted in the row: refused ones of presenters who are not known or blocked share one for each connection, action, reason and ten minutes';
    COMMENT ON COLUMN coupon.redemption_attempt.presenters IS 'Of such a row: unknown (no name was given, or a session that was never seen; or the coupon was busy, and might be being erased) or blocked';
    COMMENT ON COLUMN coupon.redemption_attempt.backend IS 'Of such a row, the process that counts in it';
    COMMENT ON COLUMN coupon.redemption_attempt.session IS 'The presenter''s; the coupon''s own where an order is released';

    CREATE TABLE coupon.redemption_limit (presenter text PRIMARY KEY, since timestamptz NOT NULL, refused int NOT NULL)
        WITH (fillfactor = 70);
    COMMENT ON TABLE coupon.redemption_limit IS 'Sessions and customers that presented codes that are not theirs, and how often lately, in transactions that committed; each connection counts the others in its memory';

    CREATE TABLE coupon.customer_limit (
        campaign text, customer text, decisions int NOT NULL, last_at timestamptz NOT NULL,
        PRIMARY KEY (customer, campaign)) WITH (fillfactor = 70);
    COMMENT ON TABLE coupon.customer_limit IS 'How often each campaign has decided about a customer, and when last: limits and cool-downs';
    COMMENT ON COLUMN coupon.customer_limit.campaign IS 'Empty: all together, and the row that is locked by whoever decides about the customer';

    CREATE TABLE coupon.budget_bucket (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, campaign text NOT NULL,
        unit text NOT NULL CHECK (unit IN ('money', 'coupons')), day date NOT NULL,
        amount numeric NOT NULL CHECK (amount >= 0), is_marker boolean NOT NULL DEFAULT false,
        granted numeric CHECK (is_marker = (granted IS NOT NULL)), CHECK (amount = 0 OR NOT is_marker)) WITH (fillfactor = 50);
    CREATE INDEX budget_bucket_campaign ON coupon.budget_bucket (campaign, unit, day, id);
    CREATE UNIQUE INDEX budget_bucket_marker ON coupon.budget_bucket (campaign, unit, day) WHERE is_marker;
    COMMENT ON TABLE coupon.budget_bucket IS 'What is left of a budget, in several rows so that coupons can be issued side by side; coupon.budget adds them up';
    COMMENT ON COLUMN coupon.budget_bucket.day IS 'The day it is for; -infinity: the whole campaign';
    COMMENT ON COLUMN coupon.budget_bucket.is_marker IS 'The one empty row that shows the buckets were filled, and keeps them from being filled twice';

    COMMENT ON COLUMN coupon.budget_bucket.granted IS 'On that row, the budget that the buckets were filled for: a change gives or takes the difference';

    CREATE TABLE coupon.order_discount (
        order_id text PRIMARY KEY, amount numeric CHECK (amount >= 0), discount numeric NOT NULL DEFAULT 0,
        CHECK (discount >= 0), CHECK (discount = 0 OR amount IS NOT NULL AND discount <= amount)) WITH (fillfactor = 70);
    COMMENT ON TABLE coupon.order_discount IS 'One row an order that a coupon is reserved or redeemed for; locked by whoever presents a coupon for it';
    COMMENT ON COLUMN coupon.order_discount.amount IS 'The order''s amount as it was last presented';
    COMMENT ON COLUMN coupon.order_discount.discount IS 'What its redeemed coupons take off together: never more than the order';

    CREATE TABLE coupon.archived_total (
        campaign text, day date, arm text, decisions bigint NOT NULL, issued bigint NOT NULL, redeemed bigint NOT NULL,
        spent numeric NOT NULL, PRIMARY KEY (campaign, day, arm));
    COMMENT ON TABLE coupon.archived_total IS 'Decisions and coupons that were erased or outlived their retention, without anybody''s name';
    COMMENT ON COLUMN coupon.archived_total.day IS 'Day of the decision in the campaign''s time zone; of a coupon, the day whose budget it counts in';
    COMMENT ON COLUMN coupon.archived_total.decisions IS 'Issued, held out and in shadow; those that a rule stopped are not counted';

    CREATE TABLE coupon.audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, clock timestamptz NOT NULL,
        by text NOT NULL, subject text NOT NULL, name text NOT NULL, event text NOT NULL, detail jsonb);
    CREATE INDEX audit_name ON coupon.audit (name);
    COMMENT ON TABLE coupon.audit IS 'Who changed what, and when: campaigns, arms, coupons, access. Rows are only ever added, and name nobody but roles';
    COMMENT ON COLUMN coupon.audit.at IS 'By the machine''s clock; clock is coupon.clock()';
    COMMENT ON COLUMN coupon.audit.by IS 'The role that was logged in';
    COMMENT ON COLUMN coupon.audit.name IS 'Campaign, campaign/arm, id of the coupon, or role';
    COMMENT ON COLUMN coupon.audit.detail IS 'Of a campaign or arm, columns as [before, after]; of a coupon, the amounts';

    PERFORM coupon_internal.create_campaign_triggers();
    INSERT INTO coupon.campaign (campaign, state, max_discount, budget) VALUES ('default', 'shadow', 10, 100);
    INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('default', 'at_risk', 'at_risk', 1);
END
$$;
COMMENT ON FUNCTION coupon_internal.create_campaign_storage_1() IS 'The campaign and coupon tables of storage version 1; called by create_storage';

CREATE FUNCTION coupon_internal.create_campaign_triggers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CREATE OR REPLACE TRIGGER check_campaign BEFORE INSERT OR UPDATE OR DELETE ON coupon.campaign
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.check_campaign();
    CREATE OR REPLACE TRIGGER check_arm AFTER DELETE OR UPDATE OF campaign ON coupon.arm
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.check_arm();
    CREATE OR REPLACE TRIGGER check_no_arm AFTER TRUNCATE ON coupon.arm
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.check_arm();
    CREATE OR REPLACE TRIGGER fund AFTER INSERT OR UPDATE OR DELETE ON coupon.campaign
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.fund_campaign();
    -- At the end of the transaction, so that a marketer who does not commit keeps nobody waiting.
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = 'coupon.campaign'::regclass AND t.tgname = 'settle_budget') THEN
        CREATE CONSTRAINT TRIGGER settle_budget AFTER UPDATE ON coupon.campaign DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN ((OLD.campaign, OLD.budget, OLD.budget_day, OLD.coupons, OLD.coupons_day)
                IS DISTINCT FROM (NEW.campaign, NEW.budget, NEW.budget_day, NEW.coupons, NEW.coupons_day))
            EXECUTE FUNCTION coupon_internal.settle_budget();
    END IF;
    CREATE OR REPLACE TRIGGER revise AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.campaign
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.bump_revision();
    CREATE OR REPLACE TRIGGER revise AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.arm
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.bump_revision();
    CREATE OR REPLACE TRIGGER check_stock BEFORE INSERT OR UPDATE ON coupon.stock_source
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.check_stock_source();
    CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON coupon.audit
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.refuse_change();
    CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON coupon.campaign
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.audit_change('campaign', 'campaign');
    CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON coupon.arm
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.audit_change('arm', 'campaign', 'arm');
    CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OF state, order_id ON coupon.coupon
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.audit_coupon();
END
$$;
COMMENT ON FUNCTION coupon_internal.create_campaign_triggers() IS 'The triggers of the campaign and coupon tables: made again where DROP EXTENSION … CASCADE took them';

-- Definer, because whoever keeps the campaigns need not see the coupons.
CREATE FUNCTION coupon_internal.check_campaign() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was text := CASE WHEN TG_OP = 'INSERT' THEN 'draft' ELSE OLD.state END;
    decimals int := coupon_internal.get_minor_units(NEW.currency);
    bad record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM coupon.coupon c WHERE c.campaign = OLD.campaign) THEN
            RAISE EXCEPTION 'campaign "%" has issued coupons', OLD.campaign USING ERRCODE = 'restrict_violation',
                HINT = 'End it: UPDATE coupon.campaign SET state = ''ended''.';
        END IF;
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.campaign <> OLD.campaign AND OLD.live_since IS NOT NULL THEN
        RAISE EXCEPTION 'campaign "%" was live and keeps its name', OLD.campaign USING ERRCODE = 'restrict_violation',
            DETAIL = 'Decisions and coupons name it.';
    END IF;
    IF was <> NEW.state AND NOT coalesce(NEW.state = ANY (CASE was
            WHEN 'draft' THEN '{shadow,live,ended}'::text[]
            WHEN 'shadow' THEN '{live,paused,ended}'
            WHEN 'live' THEN '{paused,ended}'
            WHEN 'paused' THEN '{shadow,live,ended}' END), false) THEN
        RAISE EXCEPTION 'campaign "%" cannot go from % to %', NEW.campaign, was, NEW.state
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'A campaign goes draft → shadow → live → paused → ended; paused goes back to shadow or live.';
    END IF;
    BEGIN
        PERFORM now() AT TIME ZONE NEW.time_zone;
    EXCEPTION WHEN invalid_parameter_value THEN
        RAISE EXCEPTION 'time zone "%" is not known', NEW.time_zone USING ERRCODE = 'invalid_parameter_value',
            HINT = 'SELECT name FROM pg_timezone_names shows what there is.';
    END;
    SELECT a.name, a.amount INTO bad FROM (VALUES ('discount', CASE NEW.unit WHEN 'money' THEN NEW.discount END),
        ('max_discount', NEW.max_discount), ('minimum_basket', NEW.minimum_basket), ('budget', NEW.budget),
        ('budget_day', NEW.budget_day)) a(name, amount)
    WHERE scale(trim_scale(a.amount)) > decimals LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% of campaign "%" cannot be paid: % %', bad.name, NEW.campaign, bad.amount, NEW.currency
            USING ERRCODE = 'check_violation',
                  HINT = format('Amounts of %s have %s decimals.', NEW.currency,
                      CASE decimals WHEN 0 THEN 'no' ELSE decimals::text END);
    END IF;
    IF NEW.state = 'live' AND NOT EXISTS (SELECT FROM coupon.arm a WHERE a.campaign = coalesce(OLD.campaign, NEW.campaign)) THEN
        RAISE EXCEPTION 'campaign "%" is not live without an arm', NEW.campaign
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'INSERT INTO coupon.arm (campaign, arm, policy, share) first; pause the campaign before its last arm goes.';
    END IF;
    IF NEW.state = 'live' AND NOT NEW.unlimited AND num_nonnulls(NEW.budget, NEW.budget_day) = 0
        AND (num_nonnulls(NEW.coupons, NEW.coupons_day) = 0
            OR coupon_internal.compute_worst_case(NEW.discount, NEW.unit, NEW.max_discount) IS NULL) THEN
        RAISE EXCEPTION 'campaign "%" is not live without a budget', NEW.campaign
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Nothing bounds the money that all its coupons together take off.',
                  HINT = 'Set budget or budget_day; or coupons or coupons_day where unit is money or max_discount is set; '
                      'or unlimited = true to give without a budget.';
    END IF;
    -- Only where it goes live: one whose version loses its churn model later issues nothing, and can still be paused.
    IF NEW.state = 'live' AND was <> 'live' THEN
        SELECT a.arm, t.why INTO bad FROM coupon.arm a
        CROSS JOIN LATERAL (SELECT coupon_internal.find_threshold_fault(a.policy, a.segments, NEW.target)) t(why)
        WHERE a.campaign = coalesce(OLD.campaign, NEW.campaign) AND t.why IS NOT NULL ORDER BY a.arm LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'campaign "%" has nobody to give to: %', NEW.campaign, bad.why
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = format('Arm "%s" has no thresholds under the active version.', bad.arm),
                      HINT = 'SELECT * FROM coupon.train() trains a version; with too few sessions or buyers for a churn model '
                          'only arms of policy random can issue.';
        END IF;
    END IF;
    -- Within a day all eligible sessions are drawn with one probability, or the day's comparison mixes two.
    IF TG_OP = 'UPDATE' AND was = 'live' AND NEW.holdout <> OLD.holdout THEN
        NEW.holdout_next := NEW.holdout;
        NEW.holdout_from := (date_trunc('day', coupon.clock() AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC';
        NEW.holdout := CASE WHEN OLD.holdout_from <= coupon.clock() THEN OLD.holdout_next ELSE OLD.holdout END;
        RAISE NOTICE 'campaign "%" is live: its hold-out share changes at the start of the next day (UTC)', NEW.campaign;
    END IF;
    IF NEW.state = 'live' AND was <> 'live' THEN
        NEW.live_since := coalesce(NEW.live_since, coupon.clock());
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_campaign() IS 'Trigger: a campaign''s state only moves the way it may, its time zone exists, its amounts can be paid in its currency, what is live has arms, a budget and, when it goes live, thresholds, and what has issued stays';

-- The campaign is written, not only locked: a transaction of an older snapshot that lets it go live fails then.
CREATE FUNCTION coupon_internal.check_arm() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE coupon.campaign SET state = state;
    ELSE
        UPDATE coupon.campaign c SET state = c.state WHERE c.campaign = OLD.campaign;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_arm() IS 'Trigger: has coupon_internal.check_campaign() look again at a campaign that lost an arm';

CREATE FUNCTION coupon_internal.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% is only ever added to', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'It is the audit: who changed what, and when.';
END
$$;
COMMENT ON FUNCTION coupon_internal.refuse_change() IS 'Trigger: keeps the audit append-only';

CREATE FUNCTION coupon_internal.audit_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    changed jsonb := (SELECT jsonb_object_agg(k, jsonb_build_array(before -> k, after -> k))
        FROM jsonb_object_keys(coalesce(after, before)) k WHERE before -> k IS DISTINCT FROM after -> k);
BEGIN
    IF changed IS NOT NULL THEN
        INSERT INTO coupon.audit (at, clock, by, subject, name, event, detail)
        VALUES (clock_timestamp(), coupon.clock(), session_user, TG_ARGV[0],
            concat_ws('/', coalesce(after, before) ->> TG_ARGV[1], coalesce(after, before) ->> TG_ARGV[2]),
            lower(TG_OP), changed);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.audit_change() IS 'Trigger: notes which columns of a campaign or an arm changed';

CREATE FUNCTION coupon_internal.audit_coupon() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.state, NEW.order_id) IS NOT DISTINCT FROM (OLD.state, OLD.order_id) THEN
        RETURN NULL;
    END IF;
    -- The order by its digest: enough to show which one it was, and nobody's name.
    INSERT INTO coupon.audit (at, clock, by, subject, name, event, detail)
    VALUES (clock_timestamp(), coupon.clock(), session_user, 'coupon', NEW.id::text, NEW.state,
        jsonb_strip_nulls(jsonb_build_object('campaign', NEW.campaign, 'reserved_amount', NEW.reserved_amount, 'discount', NEW.discount_amount,
            'order', encode(sha256(convert_to(NEW.id::text || NEW.order_id, 'UTF8')), 'hex'))));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.audit_coupon() IS 'Trigger: notes every state a coupon enters';
