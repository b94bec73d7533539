-- The shop's data: ordinary tables, made on first use, carried by pg_dump, never dropped with the extension.
CREATE FUNCTION coupon.create_storage() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    have int := 0;
    whole boolean := false;
BEGIN
    -- One at a time, by a row that nobody but a superuser can lock.
    PERFORM FROM pg_extension e WHERE e.extname = 'coupon_ext' FOR UPDATE;
    IF to_regclass('coupon.storage') IS NOT NULL THEN
        SELECT abs(s.version), s.version > 0 INTO have, whole FROM coupon.storage s;
    END IF;
    IF have > coupon_internal.get_storage_version() THEN
        RAISE EXCEPTION 'the storage is of version %, this coupon_ext knows %', have, coupon_internal.get_storage_version()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Install the newer coupon_ext that made it.';
    END IF;
    IF have < coupon_internal.get_storage_version() OR NOT whole THEN
        IF have < 1 THEN
            PERFORM coupon_internal.create_storage_1();
        END IF;
        PERFORM coupon_internal.create_triggers();
        PERFORM coupon_internal.create_views();
        UPDATE coupon.storage SET version = coupon_internal.get_storage_version(), at = now(), revision = gen_random_uuid();
        -- Unwatched by somebody, it stays so.
        IF NOT whole THEN
            PERFORM coupon.watch('coupon.click', '{"session": "session", "at": "at", "kind": "kind", "customer": "customer",
                "page": "page", "category": "category", "product": "product", "quantity": "quantity", "price": "price",
                "order_id": "order_id", "zone": "zone", "attributes": "attributes"}');
        END IF;
    END IF;
    PERFORM coupon_internal.restore_access();
END
$$;
COMMENT ON FUNCTION coupon.create_storage() IS 'Makes or migrates the tables and views of coupon_ext, puts back the views and triggers that DROP EXTENSION … CASCADE took, and grants again what coupon.access remembers and a restore lost; does nothing when all is up to date. The shop''s own tables are watched again by coupon.watch()';

CREATE FUNCTION coupon_internal.is_storage_ready() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('coupon.storage') IS NULL THEN
        RETURN false;
    END IF;
    RETURN EXISTS (SELECT FROM coupon.storage s WHERE s.version = coupon_internal.get_storage_version());
END
$$;
COMMENT ON FUNCTION coupon_internal.is_storage_ready() IS 'Whether there is storage, of the version of the functions, with all its triggers and views';

CREATE FUNCTION coupon_internal.require_storage() RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('coupon.storage') IS NULL THEN
        RAISE EXCEPTION 'there is no storage yet' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SELECT coupon.watch(...) your click table, or SELECT coupon.create_storage().';
    ELSIF NOT coupon_internal.is_storage_ready() THEN
        RAISE EXCEPTION 'the storage is not ready for this coupon_ext' USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'It is of another version, or the extension was dropped and created again.',
            HINT = 'SELECT coupon.create_storage() completes it.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.require_storage() IS 'Refuses with a hint where there is no storage yet, or none that is ready';

CREATE FUNCTION coupon_internal.warn_storage() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('coupon.storage') IS NULL THEN
        RAISE WARNING 'coupon_ext watches nothing yet' USING HINT =
            'SELECT coupon.watch(...) your click table, then SELECT * FROM coupon.train().';
    ELSE
        RAISE WARNING 'the storage is not ready for this coupon_ext' USING HINT = 'SELECT coupon.create_storage() completes it.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.warn_storage() IS 'Says why nothing is issued where the storage is not ready: the application''s verbs fail open';

CREATE FUNCTION coupon_internal.get_storage_version() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT 1';
COMMENT ON FUNCTION coupon_internal.get_storage_version() IS 'The storage version these functions work with';

CREATE FUNCTION coupon_internal.create_storage_1() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Every table has a primary key: without one, a publication FOR ALL TABLES refuses updates and deletions.
    CREATE TABLE coupon.storage (version int NOT NULL, at timestamptz NOT NULL DEFAULT now(),
        revision uuid NOT NULL DEFAULT gen_random_uuid(), one boolean PRIMARY KEY DEFAULT true CHECK (one));
    COMMENT ON TABLE coupon.storage IS 'One row: the version of the tables in this schema';
    COMMENT ON COLUMN coupon.storage.version IS 'Negative from when the extension was dropped and created again until coupon.create_storage() has put back triggers and views';
    COMMENT ON COLUMN coupon.storage.revision IS 'New whenever a campaign, an arm or a deployment changes: what tells backends to look again';
    INSERT INTO coupon.storage VALUES (1);

    CREATE TABLE coupon.click (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        session text NOT NULL, at timestamptz NOT NULL, kind text NOT NULL, customer text, page text, category text,
        product text, quantity float8, price float8, order_id text, zone text, attributes text[]);
    COMMENT ON TABLE coupon.click IS 'The click log of a shop that has none of its own: record_click and simulate write it';
    CREATE INDEX click_at ON coupon.click (at);
    CREATE INDEX click_session ON coupon.click (session);

    -- fillfactor leaves room for HOT updates; the target keeps the state out of the TOAST table.
    CREATE TABLE coupon.session (
        session text PRIMARY KEY, customer text, started_at timestamptz NOT NULL, last_at timestamptz NOT NULL,
        views int NOT NULL, segment int NOT NULL, version bigint, ended boolean NOT NULL, purchased boolean NOT NULL,
        churn float8, max_purchase_probability float8, decided_campaigns text[], state bytea)
        WITH (fillfactor = 65, toast_tuple_target = 8160);
    ALTER TABLE coupon.session ALTER COLUMN state SET STORAGE EXTERNAL;
    CREATE INDEX session_customer ON coupon.session (customer) WHERE customer IS NOT NULL;
    CREATE INDEX session_started ON coupon.session (started_at);
    COMMENT ON TABLE coupon.session IS 'One row a session, advanced by each click';
    COMMENT ON COLUMN coupon.session.segment IS 'The customer''s segment at the first view; 0 = unknown or anonymous';
    COMMENT ON COLUMN coupon.session.version IS 'The model version the session began with; NULL when there was none, and then it is never scored';
    COMMENT ON COLUMN coupon.session.ended IS 'A checkout or purchase happened: no decision any more';
    COMMENT ON COLUMN coupon.session.churn IS 'Probability that the session ends without a purchase, after its last click';
    COMMENT ON COLUMN coupon.session.max_purchase_probability IS 'Largest probability of a purchase so far';
    COMMENT ON COLUMN coupon.session.decided_campaigns IS 'Campaigns that have decided about this session';
    COMMENT ON COLUMN coupon.session.state IS 'The model''s state, one step a click; NULL once the session was swept';

    CREATE TABLE coupon.missed_click (session text NOT NULL, at timestamptz NOT NULL DEFAULT now(), reason text NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text, rebuildable boolean NOT NULL DEFAULT true,
        tries int NOT NULL DEFAULT 0);
    CREATE INDEX missed_click_session ON coupon.missed_click (session);
    CREATE INDEX missed_click_customer ON coupon.missed_click (customer) WHERE customer IS NOT NULL;
    CREATE INDEX missed_click_due ON coupon.missed_click (tries, id) WHERE rebuildable;
    COMMENT ON TABLE coupon.missed_click IS 'Sessions that missed a click; they get no decision until they were rebuilt from the log';
    COMMENT ON COLUMN coupon.missed_click.customer IS 'The customer of the missed click, so that coupon.forget() finds a session that is known by its mark alone';
    COMMENT ON COLUMN coupon.missed_click.rebuildable IS 'False where the log no longer holds all that was counted: the session stays as it is and is never scored again. Set to true, it is tried again';
    COMMENT ON COLUMN coupon.missed_click.tries IS 'How often coupon.maintain() tried in vain; those with the fewest tries come first';

    CREATE TABLE coupon.error_log (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
        relation text, session text, customer text, sqlstate text NOT NULL, message text NOT NULL, detail text, hint text,
        repeated bigint NOT NULL);
    COMMENT ON TABLE coupon.error_log IS 'What failed in our part of a click; the click itself was kept. No text holds a value of a row';
    COMMENT ON COLUMN coupon.error_log.customer IS 'The customer of the click';
    COMMENT ON COLUMN coupon.error_log.message IS 'Of PostgreSQL''s own errors about values (SQLSTATE class 22), only up to the first value';
    COMMENT ON COLUMN coupon.error_log.detail IS 'Of our own errors only: PostgreSQL''s details quote rows';
    COMMENT ON COLUMN coupon.error_log.repeated IS 'Faults of the same backend since its last row, this one included';

    CREATE TABLE coupon.version (
        version bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, digest text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(), by text NOT NULL DEFAULT session_user,
        since timestamptz NOT NULL, until timestamptz NOT NULL, seed bigint NOT NULL, threads int NOT NULL,
        build text NOT NULL, dropped_at timestamptz);
    COMMENT ON TABLE coupon.version IS 'One row a trained version; the digest covers all its stages. Never changed, but by coupon.drop_version()';
    COMMENT ON COLUMN coupon.version.dropped_at IS 'When coupon.drop_version() removed its models; the row stays, because deployments and decisions name it';

    CREATE TABLE coupon.model (
        version bigint REFERENCES coupon.version, stage text, segment int, spec jsonb NOT NULL, card jsonb NOT NULL,
        weights bytea NOT NULL, digest text NOT NULL, PRIMARY KEY (version, stage, segment),
        CHECK (stage IN ('sessions', 'segment', 'churn', 'evaluated', 'rank', 'issue')));
    COMMENT ON TABLE coupon.model IS 'The stages of each version, never changed: specification, card (JSON) and weights (safetensors)';
    ALTER TABLE coupon.model ALTER COLUMN weights SET STORAGE EXTERNAL;

    CREATE TABLE coupon.deployment (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, version bigint NOT NULL REFERENCES coupon.version,
        at timestamptz NOT NULL DEFAULT now(), by text NOT NULL DEFAULT session_user, reason text NOT NULL,
        restores bigint);
    COMMENT ON COLUMN coupon.deployment.restores IS 'The earlier row that a roll-back puts back';
    COMMENT ON TABLE coupon.deployment IS 'Which version serves: the newest row; rolling back is one more row';

    CREATE TABLE coupon.tuning (
        study text, trial int, at timestamptz NOT NULL DEFAULT clock_timestamp(),
        by text NOT NULL DEFAULT session_user, since timestamptz NOT NULL, until timestamptz NOT NULL,
        seed bigint NOT NULL, spec jsonb NOT NULL, loss float8, auroc float8, epochs int NOT NULL,
        seconds float8 NOT NULL, note text, PRIMARY KEY (study, trial));
    COMMENT ON TABLE coupon.tuning IS 'Specifications of the churn model that were tried; a study goes on after its rows, and anew without them';
    COMMENT ON COLUMN coupon.tuning.study IS 'Digest of what training reads of the log, the specification, the search space and the seed';
    COMMENT ON COLUMN coupon.tuning.spec IS 'What coupon.train takes to train with these values';
    COMMENT ON COLUMN coupon.tuning.loss IS 'Log loss of the pooled network on the validation window, calibrated; NULL where the trial failed';

    CREATE TABLE coupon.customer (
        customer text PRIMARY KEY, as_of timestamptz NOT NULL, spending_last_month float8 NOT NULL,
        average_payment float8 NOT NULL, items_per_purchase float8 NOT NULL, searches_last_month float8 NOT NULL,
        stay_per_session float8 NOT NULL, visits_last_month float8 NOT NULL, definition bigint NOT NULL,
        variables jsonb NOT NULL DEFAULT '{}', categories text[] NOT NULL, lines float8[] NOT NULL, version bigint NOT NULL, segment int NOT NULL, previous_segment int,
        moved_at timestamptz, refreshed_at timestamptz NOT NULL);
    COMMENT ON TABLE coupon.customer IS 'Loyalty variables over the window before as_of, and order lines by category';
    COMMENT ON COLUMN coupon.customer.stay_per_session IS 'Mean seconds from first to last event of a session';
    COMMENT ON COLUMN coupon.customer.definition IS 'What the variables are of: a hash of the window and of the expressions. A version of another definition takes the customer for unknown until coupon.refresh_segments()';
    COMMENT ON COLUMN coupon.customer.variables IS 'Variables that the specification defines beside the six of the method';
    COMMENT ON COLUMN coupon.customer.version IS 'The version that assigned the segment: the active one when the row was refreshed';
    COMMENT ON COLUMN coupon.customer.segment IS 'The segment as of as_of; assign_segment() computes it anew under the version that is active';
    COMMENT ON COLUMN coupon.customer.previous_segment IS 'The segment of the same version before the last move; NULL when there was none';
    COMMENT ON COLUMN coupon.customer.moved_at IS 'as_of of the refresh that moved the customer';
    COMMENT ON COLUMN coupon.customer.refreshed_at IS 'When the row was last computed';

    CREATE TABLE coupon.segment_name (
        version bigint REFERENCES coupon.version, segment int CHECK (segment > 0), name text NOT NULL CHECK (name <> ''),
        PRIMARY KEY (version, segment), UNIQUE (version, name));
    COMMENT ON TABLE coupon.segment_name IS 'Names that people gave to segments; coupon.name_segment() writes it';

    CREATE TABLE coupon.mutex (name text PRIMARY KEY);
    INSERT INTO coupon.mutex VALUES ('training'), ('totals');
    COMMENT ON TABLE coupon.mutex IS 'Rows that are locked by those who must go one at a time. Not advisory locks: those any role could take';

    PERFORM coupon_internal.create_campaign_storage_1();
    PERFORM coupon_internal.create_access_storage_1();
END
$$;
COMMENT ON FUNCTION coupon_internal.create_storage_1() IS 'The tables of storage version 1; called by create_storage';

-- What DROP EXTENSION … CASCADE takes along with the functions.
CREATE FUNCTION coupon_internal.create_triggers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.create_campaign_triggers();
    PERFORM coupon_internal.create_version_triggers();
END
$$;
COMMENT ON FUNCTION coupon_internal.create_triggers() IS 'The triggers of our own tables but the one that watches coupon.click; called by create_storage';

CREATE FUNCTION coupon_internal.lock_mutex(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM coupon.mutex m WHERE m.name = lock_mutex.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        -- Somebody emptied the table. The row stays locked by having been made.
        INSERT INTO coupon.mutex VALUES (lock_mutex.name) ON CONFLICT DO NOTHING;
        PERFORM FROM coupon.mutex m WHERE m.name = lock_mutex.name FOR NO KEY UPDATE;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.lock_mutex(text) IS 'Waits until no other transaction holds a row of coupon.mutex, and holds it until this one ends';

CREATE FUNCTION coupon_internal.try_lock_name(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10ms' AS $$
BEGIN
    -- Rows of others that have ended; no row of this table is another's but while it is locked.
    DELETE FROM coupon.mutex m WHERE m.name IN (
        SELECT o.name FROM coupon.mutex o WHERE starts_with(o.name, 'tuning ') FOR UPDATE SKIP LOCKED);
    INSERT INTO coupon.mutex VALUES (try_lock_name.name);
    RETURN true;
EXCEPTION WHEN lock_not_available OR unique_violation THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION coupon_internal.try_lock_name(text) IS 'Holds a name until the transaction ends; false where another transaction holds it';

CREATE FUNCTION coupon_internal.bump_revision() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE coupon.storage SET revision = gen_random_uuid();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.bump_revision() IS 'Trigger: a campaign, an arm or a deployment changed';
