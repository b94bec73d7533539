-- access: who may do what, remembered in a table of the shop's, so that a dump carries it and a rebuilt view gets it back.
--
-- A role is known by its number within its own cluster, and by its name after a restore into another: renamed, it keeps
-- its access; another that takes the name of one that is gone gets nothing by it.
CREATE FUNCTION coupon_internal.create_access_storage_1() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CREATE TABLE coupon.role_access (
        cluster bigint, number oid, access text CHECK (access IN ('operator', 'marketer', 'application', 'analyst')),
        role text NOT NULL, granted_by text NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (cluster, number, access));
    COMMENT ON TABLE coupon.role_access IS 'What coupon.grant_access() granted; coupon.access says whether it still holds';
    COMMENT ON COLUMN coupon.role_access.cluster IS 'System identifier of the cluster in which number is the role''s';
    COMMENT ON COLUMN coupon.role_access.role IS 'Its name when last looked at';
END
$$;
COMMENT ON FUNCTION coupon_internal.create_access_storage_1() IS 'The table of storage version 1 that remembers access; called by create_storage';

CREATE FUNCTION coupon_internal.list_access_rights(access text) RETURNS TABLE (kind text, object oid, rights text, columns name[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    routines CONSTANT name[] := CASE access
        WHEN 'application' THEN '{record_click,issue_coupon,live_offer,show_coupon,dismiss_coupon,reserve_coupon,
            redeem_coupon,release_coupon,churn_probability,assign_segment,rank_categories}'
        WHEN 'analyst' THEN '{assign_segment}' -- which coupon.segment_statistics calls
        WHEN 'marketer' THEN '{assign_segment,go_live,explain_decision,watch_stock,read_stock,arm_of,create_storage,require_storage}'
        WHEN 'operator' THEN '{train,train_churn,train_ranking,run_training,tune,tune_churn,run_tuning,
            activate,rollback,drop_version,lock_mutex,try_lock_name,export_model,import_model,refresh_segments,name_segment,evaluate_churn,score_sessions,build_score_query,explain_decision,explain_churn,
            events,session_events,build_events_query,build_event_query,build_event_order,build_from_item,list_sources,list_misfits,warn_misfits,raise_unreadable_table,build_text_sql,build_time_sql,get_base_type,
            live_offer,churn_probability,
            assign_segment,rank_categories,arm_of,read_stock,maintain,maintain_all,forget,create_storage,require_storage,
            list_missing_rights,list_access_rights,list_views}' END;
    -- Whoever knows a campaign's salt knows who is held out; whoever sets it, or when it went live, chooses them.
    unseen CONSTANT name[] := '{salt}';
    unset CONSTANT name[] := '{salt,live_since,holdout_next,holdout_from}';
BEGIN
    RETURN QUERY
    SELECT 'ROUTINE', p.oid, 'EXECUTE', NULL::name[] FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
    WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
        AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'coupon_ext') AND p.proname = ANY (routines);
    RETURN QUERY
    SELECT 'TABLE', c.oid, 'SELECT', NULL::name[] FROM pg_class c
    WHERE c.relnamespace = 'coupon'::regnamespace AND CASE
        WHEN access = 'operator' THEN c.relkind IN ('r', 'p', 'v')
        WHEN access IN ('analyst', 'marketer') THEN c.relkind = 'v' AND c.relname = ANY (coupon_internal.list_views())
            AND c.relname <> 'access' END;
    RETURN QUERY
    SELECT 'TABLE', to_regclass('coupon.' || t.name)::oid, t.rights, NULL::name[]
    FROM (VALUES ('marketer', 'campaign', 'DELETE'),
        ('marketer', 'arm', 'SELECT, INSERT, UPDATE, DELETE'),
        ('marketer', 'stock_source', 'SELECT, INSERT, UPDATE, DELETE'),
        ('operator', 'version', 'INSERT'), ('operator', 'model', 'INSERT'), ('operator', 'deployment', 'INSERT'),
        ('operator', 'tuning', 'INSERT'), ('operator', 'segment_name', 'INSERT, DELETE'),
        ('operator', 'customer', 'INSERT, UPDATE, DELETE')) t(access, name, rights)
    WHERE t.access = list_access_rights.access;
    RETURN QUERY
    SELECT 'TABLE', a.attrelid, t.rights, array_agg(a.attname ORDER BY a.attnum)
    FROM (VALUES ('marketer', 'campaign', 'SELECT', unseen), ('marketer', 'campaign', 'INSERT, UPDATE', unset))
        t(access, name, rights, but)
    JOIN pg_attribute a ON a.attrelid = to_regclass('coupon.' || t.name) AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname <> ALL (t.but)
    WHERE t.access = list_access_rights.access GROUP BY a.attrelid, t.rights;
END
$$;
COMMENT ON FUNCTION coupon_internal.list_access_rights(text) IS 'What an access is made of: routines, views and tables, and the rights on each, where columns is not NULL on those only';

CREATE FUNCTION coupon_internal.list_missing_rights(role oid, access text) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT format('%s%s on %s', r.want, ' (' || string_agg(quote_ident(r.col), ', ' ORDER BY r.col) || ')',
            CASE r.kind WHEN 'TABLE' THEN r.object::regclass::text ELSE r.object::regprocedure::text END)
        FROM (SELECT a.kind, a.object, w.want, c.col
            FROM coupon_internal.list_access_rights(access) a CROSS JOIN LATERAL string_to_table(a.rights, ', ') w(want)
            LEFT JOIN LATERAL unnest(a.columns) c(col) ON true) r
        -- AND may be worked out in any order, CASE not: an object's number says nothing about its kind.
        WHERE NOT CASE WHEN r.kind <> 'TABLE' THEN has_function_privilege(role, r.object, r.want)
            WHEN r.col IS NULL THEN has_table_privilege(role, r.object, r.want)
            ELSE has_column_privilege(role, r.object, r.col, r.want) END
        GROUP BY r.kind, r.object, r.want
        ORDER BY 1);
END
$$;
COMMENT ON FUNCTION coupon_internal.list_missing_rights(oid, text) IS 'The rights of an access that a role does not have';

CREATE FUNCTION coupon_internal.change_rights(verb text, role oid, access text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT a.kind, a.object, (SELECT string_agg(w.want || coalesce(' (' || c.list || ')', ''), ', ')
                FROM string_to_table(a.rights, ', ') w(want),
                    LATERAL (SELECT string_agg(quote_ident(n), ', ') AS list FROM unnest(a.columns) n) c) AS rights
        FROM coupon_internal.list_access_rights(access) a ORDER BY a.kind, a.object
    LOOP
        EXECUTE format(CASE verb WHEN 'GRANT' THEN 'GRANT %s ON %s %s TO %s' ELSE 'REVOKE %s ON %s %s FROM %s' END, r.rights,
            r.kind, CASE r.kind WHEN 'TABLE' THEN r.object::regclass::text ELSE r.object::regprocedure::text END,
            role::regrole);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.change_rights(text, oid, text) IS 'Grants or revokes all rights of an access';

CREATE FUNCTION coupon_internal.restore_access() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here CONSTANT bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    g record;
BEGIN
    -- Of another cluster: by name, from now on by number.
    INSERT INTO coupon.role_access (cluster, number, access, role, granted_by, at)
    SELECT here, r.oid, o.access, o.role, o.granted_by, o.at FROM coupon.role_access o JOIN pg_roles r ON r.rolname = o.role
    WHERE o.cluster <> here ON CONFLICT DO NOTHING;
    DELETE FROM coupon.role_access o USING pg_roles r WHERE o.cluster <> here AND r.rolname = o.role;
    UPDATE coupon.role_access o SET role = r.rolname FROM pg_roles r
    WHERE o.cluster = here AND r.oid = o.number AND o.role <> r.rolname;
    FOR g IN SELECT o.number, o.access FROM coupon.role_access o JOIN pg_roles r ON r.oid = o.number
        WHERE o.cluster = here AND coupon_internal.list_missing_rights(o.number, o.access) <> '{}' ORDER BY 1, 2
    LOOP
        PERFORM coupon_internal.change_rights('GRANT', g.number, g.access);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.restore_access() IS 'Grants again what is remembered and does not hold; called by create_storage';

CREATE FUNCTION coupon_internal.audit_access(role text, event text, access text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO coupon.audit (at, clock, by, subject, name, event, detail)
    VALUES (clock_timestamp(), coupon.clock(), session_user, 'access', audit_access.role, audit_access.event,
        jsonb_build_object('access', audit_access.access));
END
$$;
COMMENT ON FUNCTION coupon_internal.audit_access(text, text, text) IS 'Notes that access was granted or revoked';

CREATE FUNCTION coupon_internal.check_access(access text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF access IS NULL OR access NOT IN ('operator', 'marketer', 'application', 'analyst') THEN
        RAISE EXCEPTION 'access "%" is not known', coalesce(access, 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = 'It is operator, marketer, application or analyst; a role may have several.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_access(text) IS 'Refuses a name that is no access';

CREATE FUNCTION coupon.grant_access(role regrole, access text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted CONSTANT text := (SELECT r.rolname FROM pg_roles r WHERE r.oid = grant_access.role);
BEGIN
    IF wanted IS NULL THEN
        RAISE EXCEPTION 'there is no such role' USING ERRCODE = 'undefined_object', HINT = 'CREATE ROLE makes one.';
    END IF;
    PERFORM coupon_internal.check_access(access);
    PERFORM coupon.create_storage();
    INSERT INTO coupon.role_access (cluster, number, access, role, granted_by, at)
    SELECT c.system_identifier, grant_access.role, grant_access.access, wanted, session_user, now() FROM pg_control_system() c
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM coupon_internal.audit_access(wanted, 'grant', access);
    END IF;
    PERFORM coupon_internal.change_rights('GRANT', grant_access.role, access);
END
$$;
COMMENT ON FUNCTION coupon.grant_access(regrole, text) IS 'Lets a role do one of four things: operator (trains, activates, maintains, forgets, sees all), marketer (campaigns, arms, budgets, stock), application (clicks and coupons), analyst (views)';

CREATE FUNCTION coupon.revoke_access(role regrole, access text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    g record;
BEGIN
    PERFORM coupon_internal.require_storage();
    IF access IS NOT NULL THEN
        PERFORM coupon_internal.check_access(access);
    END IF;
    -- As create_storage() does: PostgreSQL lets no two transactions change an object's privileges at once.
    PERFORM FROM pg_extension e WHERE e.extname = 'coupon_ext' FOR UPDATE;
    -- Of roles that are gone nothing is left to revoke.
    FOR g IN DELETE FROM coupon.role_access o USING pg_control_system() c
        WHERE (o.access = revoke_access.access OR revoke_access.access IS NULL)
            AND CASE WHEN revoke_access.role IS NOT NULL THEN o.cluster = c.system_identifier AND o.number = revoke_access.role
                WHEN o.cluster = c.system_identifier THEN NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = o.number)
                ELSE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = o.role) END
        RETURNING o.role, o.access
    LOOP
        PERFORM coupon_internal.audit_access(g.role, 'revoke', g.access);
        IF revoke_access.role IS NOT NULL THEN
            PERFORM coupon_internal.change_rights('REVOKE', revoke_access.role, g.access);
        END IF;
    END LOOP;
    -- What another access of the role needs as well comes back.
    PERFORM coupon_internal.restore_access();
END
$$;
COMMENT ON FUNCTION coupon.revoke_access(regrole, text) IS 'Takes an access from a role, or all of them; a NULL role: forgets the access of roles that no longer exist';
