-- ddl: what keeps the triggers of watched tables from harming the shop when its tables change.
--
-- A trigger of coupon_internal.on_click() that can only do harm is a mistake of whoever writes it, and refused there.
CREATE FUNCTION coupon_internal.check_trigger(trigger oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    s record;
    above regclass;
    away regclass;
BEGIN
    SELECT g.tgrelid::regclass AS relation, g.tgname, g.tgtype, g.tgnewtable IS NOT NULL AS told INTO t
    FROM pg_trigger g WHERE g.oid = check_trigger.trigger;
    IF t.tgtype <> 4 THEN
        RAISE EXCEPTION 'coupon_internal.on_click() is a trigger AFTER INSERT FOR EACH STATEMENT only'
            USING ERRCODE = 'feature_not_supported', HINT = 'coupon.watch() creates it as it must be.';
    END IF;
    IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.relation AND g.tgfoid = 'coupon_internal.on_click'::regproc
            AND g.tgtype = 4 AND g.oid <> check_trigger.trigger) THEN
        RAISE EXCEPTION 'relation "%" is watched already', t.relation USING ERRCODE = 'duplicate_object',
            DETAIL = 'Two triggers would count each click twice.', HINT = format('SELECT coupon.unwatch(%L) first.', t.relation);
    END IF;
    IF t.told THEN
        -- Whoever gives a partition to any of these waits for us, and sees the trigger.
        FOR above IN SELECT p.relid FROM pg_partition_tree(t.relation) p WHERE NOT p.isleaf LOOP
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', above);
        END LOOP;
        away := coupon_internal.find_foreign_partition(t.relation);
        IF away IS NOT NULL THEN
            RAISE EXCEPTION 'relation "%" cannot have this trigger: its partition "%" is a foreign table', t.relation, away
                USING ERRCODE = 'feature_not_supported',
                    DETAIL = 'PostgreSQL would refuse every INSERT of a row for that partition.',
                    HINT = 'coupon.watch(…, live => false) registers the table for training.';
        END IF;
    END IF;
    SELECT * INTO s FROM coupon_internal.get_watch_state(trigger);
    IF NOT s.fits THEN
        RAISE WARNING 'trigger "%" of "%" notices nothing: %', t.tgname, t.relation, s.problem
            USING HINT = 'coupon.watch() checks the mapping that it is given.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_trigger(oid) IS 'Refuses a trigger of coupon_internal.on_click() that would count wrongly or make INSERTs fail';

-- SHARE ROW EXCLUSIVE waits for the writers of the table, and others wait behind: not for long.
CREATE FUNCTION coupon_internal.drop_transition_tables() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    away regclass;
BEGIN
    FOR t IN SELECT g.oid, g.tgrelid::regclass AS relation, g.tgname, g.tgnargs, g.tgargs
        FROM pg_depend d JOIN pg_trigger g ON g.oid = d.objid JOIN pg_class c ON c.oid = g.tgrelid AND c.relkind = 'p'
        WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = 'coupon_internal.on_click'::regproc
            AND d.classid = 'pg_trigger'::regclass AND g.tgnewtable IS NOT NULL
    LOOP
        away := coupon_internal.find_foreign_partition(t.relation);
        -- What is run here comes back here, and may have been there first.
        CONTINUE WHEN away IS NULL OR NOT EXISTS (SELECT FROM pg_trigger g WHERE g.oid = t.oid AND g.tgnewtable IS NOT NULL);
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click(%s)',
            t.tgname, t.relation, CASE t.tgnargs WHEN 1 THEN quote_literal(
                convert_from(substring(t.tgargs FOR octet_length(t.tgargs) - 1), getdatabaseencoding())) ELSE '' END);
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', t.relation, t.tgname);
        RAISE WARNING 'clicks of "%" are no longer noticed: its partition "%" is a foreign table', t.relation, away USING
            ERRCODE = 'feature_not_supported',
            DETAIL = 'With our trigger, PostgreSQL would refuse every INSERT of a row for that partition.',
            HINT = format('Training reads the table as before. To notice its clicks again, detach "%s", '
                'SELECT coupon.unwatch(%L), and watch it again.', away, t.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.drop_transition_tables() IS 'Takes the transition table from each trigger of ours whose table was given a foreign partition, so that INSERTs into it go on';

CREATE FUNCTION coupon_internal.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
    IF tg_tag = 'CREATE TRIGGER' THEN
        PERFORM coupon_internal.check_trigger(g.oid) FROM pg_event_trigger_ddl_commands() d
        JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
        WHERE g.tgfoid = to_regproc('coupon_internal.on_click');
        RETURN;
    END IF;
    BEGIN
        PERFORM coupon_internal.drop_transition_tables();
    EXCEPTION
        WHEN lock_not_available THEN
            -- The shop's INSERTs come before a statement that can be run again.
            RAISE EXCEPTION 'coupon_ext could not take its trigger from a table that gets a foreign partition'
                USING ERRCODE = 'lock_not_available', DETAIL = 'Transactions that insert into it were not done within 500 ms.',
                    HINT = 'Try again, or SELECT coupon.unwatch() the table first.';
        WHEN OTHERS THEN
            RAISE WARNING 'coupon_ext could not look at the watched tables after %: %', tg_tag, SQLERRM
                USING HINT = 'SELECT * FROM coupon.watched shows whether one of them needs attention.';
    END;
END
$$;
COMMENT ON FUNCTION coupon_internal.on_ddl() IS 'Event trigger: a table that can no longer carry our trigger goes on without, and a trigger that could only do harm is refused';

CREATE EVENT TRIGGER coupon_ext_ddl ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE FOREIGN TABLE', 'CREATE TRIGGER')
    EXECUTE FUNCTION coupon_internal.on_ddl();
-- For whoever loads tables as a replica, too.
ALTER EVENT TRIGGER coupon_ext_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER coupon_ext_ddl IS 'Keeps the triggers of watched tables from harming the shop';
