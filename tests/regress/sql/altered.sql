-- altered: whatever a DBA adds to coupon.session is checked, fired and kept, and the answers stay the same.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

BEGIN;
CREATE TABLE path (session text, at timestamptz, kind text, page text, category text, customer text);
SELECT coupon.watch('path', '{"session": "session", "at": "at", "kind": "kind", "page": "page", "category": "category",
    "customer": "customer"}');
CREATE FUNCTION walk(VARIADIC sessions text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..6 LOOP
        INSERT INTO path SELECT s, '2026-01-25 10:00:00'::timestamptz + i * interval '7 seconds',
            CASE WHEN i % 4 = 3 THEN 'search' ELSE 'view' END, 'p' || i, 'c' || i % 3
        FROM unnest(sessions) s;
    END LOOP;
END
$$;
-- What of a session differs from the one that walked first.
CREATE FUNCTION unlike(other text) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM coupon.session a JOIN coupon.session b ON a.session = 'first' AND b.session = other
    WHERE (a.last_at, a.views, a.segment, a.version, a.ended, a.purchased, a.churn, a.max_purchase_probability, a.state) IS DISTINCT
        FROM
        (b.last_at, b.views, b.segment, b.version, b.ended, b.purchased, b.churn, b.max_purchase_probability, b.state)
$$;
SELECT walk('first');
SELECT views, churn IS NOT NULL AS scored, octet_length(state) > 0 AS remembered FROM coupon.session
    WHERE session = 'first';

-- Many sessions a statement.
SELECT walk(VARIADIC array_agg('many-' || i)) FROM generate_series(1, 40) i;
SELECT count(*), sum(unlike(session)) AS unlike FROM coupon.session WHERE session LIKE 'many-%';

-- New sessions of a statement fill several pages, and each gets into the index of customers.
INSERT INTO path SELECT 'page-' || i, '2026-01-25 10:05:00', 'view', 'p', 'c', 'customer-' || i % 7
    FROM generate_series(1, 200) i;
SET LOCAL enable_seqscan = off;
SELECT count(*), count(DISTINCT (ctid::text::point)[0]) > 10 AS pages FROM coupon.session
    WHERE customer LIKE 'customer-%';
SELECT count(*) FROM coupon.session WHERE customer = 'customer-3';
SELECT count(*) FROM generate_series(1, 200) i JOIN coupon.session s ON s.session = 'page-' || i;
RESET enable_seqscan;

-- A trigger on it fires, and once it is gone fires no more.
CREATE TABLE seen (session text, path text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen
    VALUES (NEW.session, TG_OP); RETURN NEW; END $$;
CREATE TRIGGER see BEFORE INSERT OR UPDATE ON coupon.session FOR EACH ROW EXECUTE FUNCTION see();
SELECT walk('triggered', 'triggered too');
SELECT session, unlike(session), (SELECT string_agg(path, ' ') FROM seen WHERE seen.session = s.session) AS seen
    FROM coupon.session s WHERE session LIKE 'triggered%' ORDER BY session;
DROP TRIGGER see ON coupon.session;
SELECT walk('untriggered');
SELECT unlike('untriggered'), (SELECT count(*) FROM seen WHERE session = 'untriggered') AS seen;

-- A constraint is checked: the click that breaks it is kept, and its session marked.
ALTER TABLE coupon.session ADD CONSTRAINT few CHECK (session <> 'bounded' OR views < 4);
SELECT walk('bounded');
SELECT (SELECT count(*) FROM path WHERE session = 'bounded') AS clicks, views,
    (SELECT count(*) > 0 FROM coupon.missed_click WHERE session = 'bounded') AS marked FROM coupon.session
    WHERE session = 'bounded';
ALTER TABLE coupon.session DROP CONSTRAINT few;

-- While somebody is marked, everybody else goes on.
SELECT walk('unmarked');
SELECT unlike('unmarked');

-- A column of somebody's own is carried along.
ALTER TABLE coupon.session ADD COLUMN note text DEFAULT 'kept';
SELECT walk('wider');
SELECT unlike('wider'), note FROM coupon.session WHERE session = 'wider';

-- NOT NULL and a precision of a DBA's own hold.
ALTER TABLE coupon.session ALTER last_at TYPE timestamptz(0);
INSERT INTO path VALUES ('precise', '2026-01-25 10:05:00.6', 'view', 'p', 'c');
SELECT last_at FROM coupon.session WHERE session = 'precise';
ALTER TABLE coupon.session ADD CONSTRAINT named CHECK (customer IS NOT NULL) NOT VALID;
INSERT INTO path VALUES ('anonymous', '2026-01-25 10:05:00', 'view', 'p', 'c');
SELECT (SELECT count(*) FROM coupon.session WHERE session = 'anonymous') AS stored,
    (SELECT count(*) FROM coupon.missed_click WHERE session = 'anonymous') AS marks;
ALTER TABLE coupon.session DROP CONSTRAINT named;
ALTER TABLE coupon.session ALTER last_at TYPE timestamptz;

-- Row security, of which the owner of the table is free, a publication, a generated column, one more index.
ALTER TABLE coupon.session ENABLE ROW LEVEL SECURITY;
SELECT walk('secured'), walk(VARIADIC array_agg('secured-' || i)) FROM generate_series(1, 3) i;
SELECT sum(unlike(session)) AS unlike FROM coupon.session WHERE session LIKE 'secured%';
ALTER TABLE coupon.session DISABLE ROW LEVEL SECURITY;
SET LOCAL client_min_messages = error;
CREATE PUBLICATION sessions FOR TABLE coupon.session;
SET LOCAL client_min_messages = warning;
SELECT walk('published');
SELECT unlike('published');
DROP PUBLICATION sessions;
ALTER TABLE coupon.session ADD COLUMN long boolean GENERATED ALWAYS AS (views > 5) STORED;
CREATE INDEX ON coupon.session (last_at);
SELECT walk('generated');
SELECT unlike('generated'), long FROM coupon.session WHERE session = 'generated';
-- A trigger that passes a row by: the click is kept, and its session marked instead of being scored with a gap.
CREATE FUNCTION pass_by() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW.session <> 'passed'
    THEN NEW END; END $$;
CREATE TRIGGER pass_by BEFORE UPDATE ON coupon.session FOR EACH ROW EXECUTE FUNCTION pass_by();
SELECT walk('passed');
SELECT views, (SELECT count(*) > 0 FROM coupon.missed_click g WHERE g.session = s.session) AS marked FROM coupon.session s
    WHERE session = 'passed';
DROP TRIGGER pass_by ON coupon.session;

-- Hash partitions.
ALTER TABLE coupon.session RENAME TO whole;
CREATE TABLE coupon.session (LIKE coupon.whole INCLUDING DEFAULTS INCLUDING INDEXES) PARTITION BY HASH (session);
CREATE TABLE coupon.session_0 PARTITION OF coupon.session FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE coupon.session_1 PARTITION OF coupon.session FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT walk('first'), walk('parted'), walk(VARIADIC array_agg('parted-' || i)) FROM generate_series(1, 20) i;
SELECT count(*), count(DISTINCT tableoid) AS partitions, sum(unlike(session)) AS unlike FROM coupon.session;
SELECT views, churn IS NOT NULL AS scored, issue_coupon('first') IS NULL AS none FROM coupon.session
    WHERE session = 'first';
DROP TABLE coupon.session;
ALTER TABLE coupon.whole RENAME TO session;

-- A customer who is named late gets into the index of customers.
INSERT INTO path VALUES ('first', '2026-01-25 10:05:00', 'view', 'p', 'c', 'late customer');
SET LOCAL enable_seqscan = off;
SELECT session, customer, views FROM coupon.session WHERE customer = 'late customer';
RESET enable_seqscan;
-- And a row that no longer fits on its page is found by its key: new versions in one transaction leave no room.
SELECT walk('moved'), walk('moved'), walk('moved'), walk('moved'), walk('moved');
SET LOCAL enable_seqscan = off;
SELECT session, views FROM coupon.session WHERE session = 'moved';
ROLLBACK;

-- In a transaction with one snapshot for all its statements too.
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO coupon.click (session, at, kind) VALUES ('one snapshot', '2026-01-25 10:00:00', 'view');
INSERT INTO coupon.click (session, at, kind) VALUES ('one snapshot', '2026-01-25 10:00:01', 'view');
SELECT views FROM coupon.session WHERE session = 'one snapshot';
ROLLBACK;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
