-- A database before CREATE EXTENSION: what every file uses, and the publication that all of them run under.

-- Says how a statement was refused: SQLSTATE and message, then detail and hint where there are any.
CREATE FUNCTION refused(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'not refused: ' || statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN NEXT SQLSTATE || ' ' || message;
    IF detail <> '' THEN RETURN NEXT 'detail: ' || detail; END IF;
    IF hint <> '' THEN RETURN NEXT 'hint: ' || hint; END IF;
END
$$;

-- All tests run under it: a table without a key would refuse every UPDATE and DELETE.
CREATE PUBLICATION everything FOR ALL TABLES;
