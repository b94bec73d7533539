-- versions: which version serves, and how one that is no longer needed goes away.
--
-- A constraint says what stays, not a convention: models are deleted only of a version that is marked as dropped, and a
-- version is marked only while nobody needs it.
CREATE FUNCTION coupon_internal.find_version_use(version bigint) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    active record;
    earlier bigint;
BEGIN
    SELECT d.version, coalesce(d.restores, d.id) AS place INTO active FROM coupon.deployment d ORDER BY d.id DESC LIMIT 1;
    IF active.version = find_version_use.version THEN
        RETURN 'it serves';
    END IF;
    SELECT d.version INTO earlier FROM coupon.deployment d
    WHERE d.id < active.place AND d.restores IS NULL AND d.version <> active.version
        AND EXISTS (SELECT FROM coupon.model m WHERE m.version = d.version) ORDER BY d.id DESC LIMIT 1;
    IF earlier = find_version_use.version THEN
        RETURN 'coupon.rollback() would put it back';
    END IF;
    -- After a day coupon.maintain() frees a session's state.
    IF EXISTS (SELECT FROM coupon.session s WHERE s.version = find_version_use.version
            AND s.last_at > coupon.clock() - interval '1 day') THEN
        RETURN 'sessions of the last day run with it';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.find_version_use(bigint) IS 'Why a version must stay; NULL where nothing needs it';

CREATE FUNCTION coupon_internal.check_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    why text;
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'versions are not deleted' USING ERRCODE = 'restrict_violation',
            HINT = 'SELECT coupon.drop_version(version) removes the models of one that nothing needs.';
    END IF;
    IF OLD.dropped_at IS NOT NULL OR NEW.dropped_at IS NULL
        OR (to_jsonb(NEW) - 'dropped_at') IS DISTINCT FROM (to_jsonb(OLD) - 'dropped_at') THEN
        RAISE EXCEPTION 'versions are not changed' USING ERRCODE = 'restrict_violation',
            HINT = 'SELECT coupon.drop_version(version) removes the models of one that nothing needs.';
    END IF;
    why := coupon_internal.find_version_use(OLD.version);
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'version % stays: %', OLD.version, why USING ERRCODE = 'object_in_use',
            HINT = 'SELECT version, at, reason FROM coupon.deployment ORDER BY id shows which versions have served; sessions end within a day.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_version() IS 'Trigger: a version is never deleted or changed, only marked as dropped once nothing needs it';

CREATE FUNCTION coupon_internal.check_model() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM coupon.version v WHERE v.version = OLD.version AND v.dropped_at IS NOT NULL) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'models are neither changed nor deleted' USING ERRCODE = 'restrict_violation',
        DETAIL = 'Running sessions are scored by them.',
        HINT = 'SELECT coupon.drop_version(version) removes the models of a version that nothing needs.';
END
$$;
COMMENT ON FUNCTION coupon_internal.check_model() IS 'Trigger: models are deleted only of a version that coupon.drop_version() has marked, and never changed';

CREATE FUNCTION coupon_internal.check_deployment() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Whoever drops it has the row alone: this waits for him, and sees then that it is gone.
    PERFORM FROM coupon.version v WHERE v.version = NEW.version FOR KEY SHARE;
    IF EXISTS (SELECT FROM coupon.version v WHERE v.version = NEW.version AND v.dropped_at IS NOT NULL) THEN
        RAISE EXCEPTION 'version % has no models any more', NEW.version USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Train one, or import it again: SELECT coupon.import_model(artefact).';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_deployment() IS 'Trigger: a version that was dropped does not serve';

CREATE FUNCTION coupon_internal.create_version_triggers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CREATE OR REPLACE TRIGGER check_version BEFORE UPDATE OR DELETE ON coupon.version
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.check_version();
    CREATE OR REPLACE TRIGGER keep_version BEFORE TRUNCATE ON coupon.version
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.check_version();
    CREATE OR REPLACE TRIGGER check_model BEFORE UPDATE OR DELETE ON coupon.model
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.check_model();
    CREATE OR REPLACE TRIGGER keep_model BEFORE TRUNCATE ON coupon.model
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.check_model();
    CREATE OR REPLACE TRIGGER check_deployment BEFORE INSERT OR UPDATE ON coupon.deployment
        FOR EACH ROW EXECUTE FUNCTION coupon_internal.check_deployment();
    CREATE OR REPLACE TRIGGER revise AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.deployment
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.bump_revision();
    CREATE OR REPLACE TRIGGER revise AFTER UPDATE ON coupon.version
        FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.bump_revision();
END
$$;
COMMENT ON FUNCTION coupon_internal.create_version_triggers() IS 'The triggers of the tables of versions: made again where DROP EXTENSION … CASCADE took them';

CREATE FUNCTION coupon.drop_version(version bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.require_storage();
    -- Alone: nobody activates it meanwhile.
    PERFORM FROM coupon.version v WHERE v.version = drop_version.version AND v.dropped_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no version %', coalesce(version::text, 'NULL') USING ERRCODE = 'undefined_object',
            HINT = 'SELECT version, at FROM coupon.version WHERE dropped_at IS NULL shows what there is.';
    END IF;
    UPDATE coupon.version v SET dropped_at = now() WHERE v.version = drop_version.version;
    DELETE FROM coupon.model m WHERE m.version = drop_version.version;
    DELETE FROM coupon.segment_name n WHERE n.version = drop_version.version;
END
$$;
COMMENT ON FUNCTION coupon.drop_version(bigint) IS 'Removes the models of a version that nothing needs: not the one that serves, nor the one that coupon.rollback() would put back, nor one that a session of the last day runs with. Its row stays, because deployments and decisions name it';
