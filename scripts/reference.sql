-- What scripts/reference.sh prints. Every description is a COMMENT of the catalogue, or a line of scripts/reference.tsv.
SET client_min_messages = error;
SET search_path = pg_catalog;
SET datestyle = 'ISO, YMD';
LOAD 'coupon_ext';

CREATE TEMP TABLE specification (stage text, document json);
\copy specification from 'specifications.tsv'
CREATE TEMP TABLE meaning (stage text, key text, type text, meaning text);
\copy meaning from 'meanings.tsv' with (format csv, delimiter E'\t', header, quote E'\x01')

-- Types as people write them.
CREATE FUNCTION pg_temp.short(type text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(replace(replace(replace(regexp_replace(regexp_replace(type,
        '''([^'']*)''::(text|jsonb|interval|timestamp with time zone)', '''\1''', 'g'), 'NULL::[a-z ]+(\[\])?', 'NULL', 'g'),
        'timestamp with time zone', 'timestamptz'), 'double precision', 'float8'), 'integer', 'int'), 'boolean', 'bool')
$$;
-- A cell of a table holds no bar and no line break.
CREATE FUNCTION pg_temp.cell(value text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(replace(coalesce(value, ''), '|', '\|'), E'\n', ' ')
$$;

-- Code, where there is any.
CREATE FUNCTION pg_temp.code(value text) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce('`' || nullif(pg_temp.cell(value), '') || '`', '')
$$;

CREATE TEMP TABLE routine AS
SELECT n.nspname = 'coupon' AS ours, CASE WHEN n.nspname = 'coupon' THEN 'coupon.' ELSE '' END || p.proname AS name,
    pg_temp.short(pg_get_function_arguments(p.oid)) AS arguments, pg_temp.short(pg_get_function_result(p.oid)) AS result,
    CASE WHEN p.prokind = 'p' THEN 'Procedure.' WHEN p.provolatile = 'i' THEN 'Immutable.'
        WHEN p.provolatile = 's' THEN 'Stable: reads only.' ELSE 'Volatile.' END AS volatility,
    obj_description(p.oid, 'pg_proc') AS meaning
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'coupon_ext') AND n.nspname <> 'coupon_internal';

CREATE TEMP TABLE type AS
SELECT 'coupon.' || t.typname AS name, obj_description(t.oid, 'pg_type') AS meaning, t.typrelid AS oid
FROM pg_type t WHERE t.typnamespace = 'coupon'::regnamespace AND t.typtype = 'c'
    AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c');

CREATE TEMP TABLE relation AS
SELECT c.oid, c.relkind = 'v' AS view, 'coupon.' || c.relname AS name, obj_description(c.oid, 'pg_class') AS meaning
FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'p', 'v');

CREATE TEMP TABLE field AS
SELECT r.oid, r.name AS relation, r.view, a.attnum, a.attname AS name,
    pg_temp.short(format_type(a.atttypid, a.atttypmod)) AS type,
    CASE WHEN a.attidentity <> '' THEN 'identity' ELSE pg_temp.short(pg_get_expr(e.adbin, e.adrelid)) END AS "default",
    coalesce(col_description(r.oid, a.attnum), m.meaning, o.meaning) AS meaning,
    col_description(r.oid, a.attnum) IS NOT NULL AS commented
FROM (SELECT oid, name, view FROM relation UNION ALL SELECT oid, name, NULL FROM type) r
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
-- A column of a table or type whose name says nearly all has its meaning here; one of a view has a COMMENT.
LEFT JOIN meaning m ON m.stage = r.name AND m.key = a.attname
LEFT JOIN meaning o ON o.stage = 'column' AND o.key = a.attname;

-- A default in the largest unit that divides it.
CREATE TEMP TABLE setting AS
SELECT s.name, s.vartype AS type, s.context, s.short_desc AS meaning, nullif(s.extra_desc, '') AS more,
    CASE WHEN s.enumvals IS NOT NULL THEN array_to_string(s.enumvals, ', ')
        WHEN s.vartype = 'integer' THEN format('%s … %s', s.min_val, s.max_val) ELSE '' END AS range, s.unit,
    CASE WHEN s.boot_val IS NULL OR s.boot_val = '' THEN 'empty'
        WHEN s.boot_val = '0' OR s.unit IS NULL THEN s.boot_val
        WHEN s.unit = 'ms' THEN s.boot_val || ' ms'
        WHEN s.unit = 's' AND s.boot_val::bigint % 60 = 0 THEN s.boot_val::bigint / 60 || ' min'
        WHEN s.unit = 'kB' AND s.boot_val::bigint % 1048576 = 0 THEN s.boot_val::bigint / 1048576 || ' GB'
        ELSE s.boot_val || ' ' || s.unit END AS "default"
FROM pg_settings s WHERE s.name LIKE 'coupon\_ext.%';

CREATE TEMP TABLE key AS
SELECT s.stage, k.n, k.key, k.value #>> '{}' AS "default", m.type, m.meaning
FROM specification s CROSS JOIN LATERAL (
    SELECT e.key, e.value, row_number() OVER () AS n FROM json_each(s.document) e WHERE e.key <> 'space'
    UNION ALL SELECT 'space.' || e.key, to_json(concat(e.value ->> 'low', ' … ', e.value ->> 'high',
            CASE WHEN e.value ->> 'log' = 'true' THEN ', log' END)), 1000 + row_number() OVER ()
        FROM json_each(s.document -> 'space') e) k
LEFT JOIN meaning m ON m.stage = s.stage AND m.key = k.key;

CREATE TEMP TABLE missing AS
SELECT format('%s(%s)', name, arguments) AS name FROM routine WHERE coalesce(meaning, '') = ''
UNION ALL SELECT name FROM type WHERE coalesce(meaning, '') = ''
UNION ALL SELECT name FROM relation WHERE coalesce(meaning, '') = ''
UNION ALL SELECT relation || '.' || name FROM field WHERE coalesce(meaning, '') = '' OR view AND NOT commented
UNION ALL SELECT name FROM setting WHERE coalesce(meaning, '') = ''
UNION ALL SELECT format('key %s of models/%s.json', key, stage) FROM key
    WHERE coalesce(meaning, '') = '' OR coalesce(type, '') = ''
UNION ALL SELECT format('scripts/reference.tsv: %s.%s is no key any more', m.stage, m.key) FROM meaning m
    WHERE m.stage IN (SELECT s.stage FROM specification s) AND NOT EXISTS (SELECT FROM key k WHERE k.stage = m.stage AND k.key = m.key)
        AND NOT (m.stage = 'tune' AND m.key LIKE 'space.%');

SELECT :'what' = 'missing' AS missing \gset
\if :missing
SELECT name FROM missing ORDER BY name COLLATE "C";
\quit
\endif

\qecho '# Reference'
\qecho
\qecho 'Every function, type, view, table, setting and specification key.'
\qecho
\qecho '`make reference` prints this page from the catalogue of an installed extension and from'
\qecho '`models/*.json`. A test fails where the two differ. Functions of schema `coupon_internal` are for'
\qecho 'the extension alone, and are not listed.'
\qecho
\qecho '- [Functions for applications](#functions-for-applications)'
\qecho '- [Functions of schema coupon](#functions-of-schema-coupon)'
\qecho '- [Types](#types)'
\qecho '- [Views](#views)'
\qecho '- [Tables](#tables)'
\qecho '- [Settings](#settings)'
\qecho '- [Specification keys](#specification-keys)'
\qecho
\qecho '## Functions for applications'
\qecho
\qecho 'These lie in the schema that CREATE EXTENSION was run in, `public` by default.'
CREATE TEMP VIEW routines AS
SELECT r.ours, r.name, r.arguments, format(E'\n```\n%s\n```\n%s. %s', CASE
        WHEN r.result IS NULL THEN format('CALL %s(%s)', r.name, regexp_replace(r.arguments, '\mIN ', '', 'g'))
        WHEN length(concat(r.name, r.arguments, r.result)) <= 90 THEN format('%s(%s) → %s', r.name, r.arguments, r.result)
        ELSE format(E'%s(%s)\n    → %s', r.name, r.arguments, r.result) END,
    r.meaning, r.volatility) AS entry
FROM routine r;
SELECT entry FROM routines WHERE NOT ours ORDER BY name COLLATE "C", arguments COLLATE "C";
\qecho
\qecho '## Functions of schema coupon'
SELECT entry FROM routines WHERE ours ORDER BY name COLLATE "C", arguments COLLATE "C";
\qecho
\qecho '## Types'
SELECT format(E'\n### %s\n\n%s.\n\n| field | type | meaning |\n|---|---|---|\n%s', t.name, t.meaning,
    (SELECT string_agg(format('| `%s` | %s | %s |', f.name, f.type, pg_temp.cell(f.meaning)), E'\n' ORDER BY f.attnum) FROM field f WHERE f.oid = t.oid))
FROM type t ORDER BY t.name COLLATE "C";
\qecho
\qecho '## Views'
SELECT format(E'\n### %s\n\n%s.\n\n| column | type | meaning |\n|---|---|---|\n%s', r.name, r.meaning,
    (SELECT string_agg(format('| `%s` | %s | %s |', f.name, f.type, pg_temp.cell(f.meaning)), E'\n' ORDER BY f.attnum)
        FROM field f WHERE f.oid = r.oid)) FROM relation r WHERE r.view ORDER BY r.name COLLATE "C";
\qecho
\qecho '## Tables'
\qecho
\qecho 'Ordinary tables: pg_dump carries them, and DROP EXTENSION leaves them.'
SELECT format(E'\n### %s\n\n%s.\n\n| column | type | default | meaning |\n|---|---|---|---|\n%s', r.name, r.meaning,
    (SELECT string_agg(format('| `%s` | %s | %s | %s |', f.name, f.type, pg_temp.code(f."default"), pg_temp.cell(f.meaning)),
            E'\n' ORDER BY f.attnum)
        FROM field f WHERE f.oid = r.oid)) FROM relation r WHERE NOT r.view ORDER BY r.name COLLATE "C";
\qecho
\qecho '## Settings'
\qecho
\qecho '`LOAD ''coupon_ext''` makes them known to a connection that has not used the extension yet.'
\qecho
\qecho '| setting | type | default | range | who sets it | meaning |'
\qecho '|---|---|---|---|---|---|'
SELECT format('| `%s` | %s | %s | %s | %s | %s |', name, type || coalesce(', ' || unit, ''), "default", range,
    CASE context WHEN 'superuser' THEN 'superuser' ELSE 'any user' END, pg_temp.cell(concat_ws(' ', meaning, more)))
FROM setting ORDER BY name COLLATE "C";
\qecho
\qecho '## Specification keys'
\qecho
\qecho 'The argument `spec` overrides them by stage: `''{"churn": {"hidden_size": 96}}''`. A key that does'
\qecho 'not exist is refused by name. Only `coupon.tune_churn` takes stage `tune`.'
SELECT format(E'\n### %s\n\n| key | type | default | meaning |\n|---|---|---|---|\n%s', s.stage,
    (SELECT string_agg(format('| `%s` | %s | %s | %s |', k.key, k.type, pg_temp.code(coalesce(k."default", 'null')), pg_temp.cell(k.meaning)), E'\n' ORDER BY k.n)
        FROM key k WHERE k.stage = s.stage))
FROM specification s ORDER BY array_position('{sessions,segment,churn,rank,issue,tune}', s.stage);
