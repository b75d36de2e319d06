"""The registry's tables in PostgreSQL, and the functions that change them.

    perdure_cluster     one row: the version of who is there and who owns what
    perdure_member      one row per member, with its lease
    perdure_shard       4,096 rows, each with its owner; `since`: the version with which that came
    perdure_fence       what each member's commits change: see `postgres_chain`
    perdure_cell        one row, once it is claimed: which portion of all actors is stored here
    perdure_door        made with the first announcement: where HTTP requests can be sent, one row
                        per process that takes some, changed by that process only

Every change is one call of a function, and so one round trip: a process that freezes or loses its
network amid a transaction of several would keep its locks, and the others would wait for it. (One
statement of many parts is no way either: all its parts see what was there when it began, before it
waited for its first lock. Statements of a function see what the one before has waited for.)

All functions lock the row of `perdure_cluster` first. So they never run at the same time, and no
two of them can wait for each other; what one sees nobody changes, but for leases: renewals lock
nothing but their own member's row, and commits nothing of these tables but their own fence. A
function waits for a lock for `LOCK_WAIT_S` at most, then nothing of it is done.

Whoever joins also fences a store without a registry, which commits on row 0; and that does not
begin while there are members.

A function whose meaning changes gets a new name, since the release before runs beside this one.
"""

from perdure.base.shards import SHARDS
from perdure.store.postgres_tables import FENCE, LOCK

LOCK_WAIT_S = 2.0

_TABLES = f"""
{FENCE};
CREATE TABLE perdure_member (
    incarnation bigint PRIMARY KEY,
    name text NOT NULL, address text NOT NULL, release text NOT NULL, state text NOT NULL,
    asked_to_drain boolean NOT NULL DEFAULT false, key_fingerprint text NOT NULL,
    lease_until timestamptz NOT NULL, joined_at timestamptz NOT NULL,
    has_session boolean NOT NULL DEFAULT true  -- that ends with its process: not by a pooler
) WITH (fillfactor = 20);
CREATE SEQUENCE perdure_incarnation;
CREATE TABLE perdure_shard (
    shard smallint PRIMARY KEY, owner bigint NOT NULL, since bigint NOT NULL
) WITH (fillfactor = 40);
INSERT INTO perdure_shard SELECT number, 0, 0 FROM generate_series(0, {SHARDS - 1}) AS number;
CREATE TABLE perdure_cluster (version bigint NOT NULL);
INSERT INTO perdure_cluster VALUES (1);
"""

IS_CLAIMED = "SELECT to_regclass('perdure_cell') IS NOT NULL"
CREATE_CELL = """
CREATE TABLE IF NOT EXISTS perdure_cell (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only), number integer NOT NULL,
    count integer NOT NULL
)
"""
CLAIM = """
INSERT INTO perdure_cell (number, count)
    SELECT CASE WHEN is_called THEN 0 ELSE $1::integer END,
        CASE WHEN is_called THEN 1 ELSE $2::integer END
    FROM perdure_incarnation  -- was in use before there were cells, and so holds everything
    ON CONFLICT DO NOTHING
"""
CELL = "SELECT number, count FROM perdure_cell"

HAS_DOORS = "SELECT to_regclass('perdure_door') IS NOT NULL"
CREATE_DOORS = """
CREATE TABLE IF NOT EXISTS perdure_door (
    address text NOT NULL, name text NOT NULL, release text NOT NULL, state text NOT NULL,
    until timestamptz NOT NULL, PRIMARY KEY (address, name)
) WITH (fillfactor = 20)
"""
# It also clears away what processes left that died; a row that is locked, somebody else clears.
ANNOUNCE = """
WITH long_over AS (
    SELECT address, name FROM perdure_door WHERE until < clock_timestamp() - interval '1 hour'
    AND (address, name) <> ($1, $2) FOR UPDATE SKIP LOCKED
), cleared AS (
    DELETE FROM perdure_door USING long_over WHERE perdure_door.address = long_over.address
    AND perdure_door.name = long_over.name
)
INSERT INTO perdure_door (address, name, release, state, until)
    VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))
    ON CONFLICT (address, name) DO UPDATE
    SET release = excluded.release, state = excluded.state, until = excluded.until
"""
DOORS = """
SELECT address, name, release, state FROM perdure_door WHERE until > clock_timestamp()
ORDER BY address COLLATE "C", name COLLATE "C"
"""
WITHDRAW = "DELETE FROM perdure_door WHERE address = $1 AND name = $2"

_JOIN = """
CREATE FUNCTION perdure_join(
    its_name text, its_address text, its_release text, lease_ttl double precision, its_key text
) RETURNS bigint {attributes} AS $$
DECLARE
    given bigint := nextval('perdure_incarnation');
    other record;
BEGIN
    UPDATE perdure_cluster SET version = version + 1;
    FOR other IN SELECT incarnation, name, lease_until FROM perdure_member
        WHERE key_fingerprint <> its_key FOR UPDATE  -- waits for renewals under way
    LOOP
        IF other.lease_until > clock_timestamp() THEN
            RAISE EXCEPTION USING ERRCODE = 'PDKEY', MESSAGE = other.name;
        END IF;
        PERFORM perdure_remove(other.incarnation, '{}', '{}');
    END LOOP;
    INSERT INTO perdure_fence (incarnation, commit_number) VALUES (0, 0)
        ON CONFLICT (incarnation) DO UPDATE SET commit_number = perdure_fence.commit_number + 2;
    INSERT INTO perdure_fence (incarnation, commit_number) VALUES (given, 0);
    INSERT INTO perdure_member (
        incarnation, name, address, release, state, key_fingerprint, lease_until, joined_at
    ) VALUES (
        given, its_name, its_address, its_release, 'active', its_key,
        clock_timestamp() + make_interval(secs => lease_ttl), clock_timestamp()
    );
    RETURN given;
END $$;
"""

OTHER_CLUSTER = "PDKEY"  # the SQLSTATE when members use another key; the message is one's name

_SET_STATE = """
CREATE FUNCTION perdure_set_state(member bigint, its_state text, lease_ttl double precision)
RETURNS boolean {attributes} AS $$
BEGIN
    PERFORM 1 FROM perdure_cluster FOR UPDATE;
    UPDATE perdure_member
        SET state = its_state, lease_until = clock_timestamp() + make_interval(secs => lease_ttl)
        WHERE incarnation = member;
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE perdure_cluster SET version = version + 1;
    RETURN true;
END $$;
"""

_GIVE = """
CREATE FUNCTION perdure_give(
    giver bigint, shards smallint[], heirs bigint[], known_version bigint DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    next_version bigint := version + 1 FROM perdure_cluster;
BEGIN
    UPDATE perdure_shard SET owner = given.heir, since = next_version
        FROM unnest(shards, heirs) AS given(shard, heir)
        JOIN perdure_member ON perdure_member.incarnation = given.heir
        WHERE perdure_shard.shard = given.shard AND perdure_shard.owner = giver
        AND given.heir <> giver AND (known_version IS NULL OR since <= known_version);
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE perdure_cluster SET version = next_version;
    RETURN true;
END $$;
"""

_REMOVE = """
CREATE FUNCTION perdure_remove(member bigint, shards smallint[], heirs bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM perdure_fence WHERE incarnation = member;  -- waits for a commit under way
    DELETE FROM perdure_member WHERE incarnation = member;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM perdure_give(member, shards, heirs);
    UPDATE perdure_cluster SET version = version + 1;
    UPDATE perdure_shard SET owner = 0, since = (SELECT version FROM perdure_cluster)
        WHERE owner = member;
    RETURN true;
END $$;
"""

_TAKE_OVER = """
CREATE FUNCTION perdure_take_over(
    victim bigint, seen_dead boolean, shards smallint[], heirs bigint[]
) RETURNS boolean {attributes} AS $$
BEGIN
    PERFORM 1 FROM perdure_cluster FOR UPDATE;
    IF victim = 0 THEN RETURN perdure_give(0, shards, heirs); END IF;
    PERFORM 1 FROM perdure_member WHERE incarnation = victim AND (
        lease_until < clock_timestamp() OR seen_dead AND has_session AND NOT EXISTS (
            SELECT FROM pg_stat_activity
            WHERE application_name = 'perdure:' || victim AND datname = current_database()
        )
    ) FOR UPDATE;  -- waits for a renewal under way, and then looks again
    IF NOT FOUND THEN RETURN false; END IF;
    RETURN perdure_remove(victim, shards, heirs);
END $$;
"""

_HAND_OVER = """
CREATE FUNCTION perdure_hand_over(
    member bigint, shards smallint[], heirs bigint[], known_version bigint
) RETURNS boolean {attributes} AS $$
BEGIN
    PERFORM 1 FROM perdure_cluster FOR UPDATE;
    PERFORM 1 FROM perdure_member WHERE incarnation = member;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM perdure_give(member, shards, heirs, known_version);
    RETURN true;
END $$;
"""

_ASK_TO_DRAIN = """
CREATE FUNCTION perdure_ask_to_drain(member bigint) RETURNS boolean {attributes} AS $$
BEGIN
    PERFORM 1 FROM perdure_cluster FOR UPDATE;
    UPDATE perdure_member SET asked_to_drain = true
        WHERE incarnation = member AND NOT asked_to_drain;
    IF FOUND THEN UPDATE perdure_cluster SET version = version + 1; END IF;
    RETURN EXISTS (SELECT FROM perdure_member WHERE incarnation = member);
END $$;
"""

_LEAVE = """
CREATE FUNCTION perdure_leave(member bigint) RETURNS boolean {attributes} AS $$
BEGIN
    PERFORM 1 FROM perdure_cluster FOR UPDATE;
    RETURN perdure_remove(member, '{}', '{}');
END $$;
"""

_ATTRIBUTES = f"LANGUAGE plpgsql SET lock_timeout = {int(LOCK_WAIT_S * 1000)}"

LOCK_SCHEMA = f"SELECT pg_advisory_xact_lock({LOCK})"

# Not to_regclass(): it remembers what was not there a moment ago, before the lock was waited for.
IS_THERE = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE tablename = 'perdure_cluster'"
    " AND schemaname = ANY(current_schemas(false)))"
)

CREATE = _TABLES + "".join(
    part.replace("{attributes}", _ATTRIBUTES)
    for part in (_JOIN, _SET_STATE, _GIVE, _REMOVE, _TAKE_OVER, _HAND_OVER, _ASK_TO_DRAIN, _LEAVE)
)

# Behind a pooler; its sessions say nothing about its clients.
NO_SESSION = "UPDATE perdure_member SET has_session = false WHERE incarnation = $1"

# -- looking around ------------------------------------------------------------------------------

_VIEW = """
SELECT version, (
    SELECT coalesce(json_agg(json_build_object(
        'incarnation', incarnation, 'name', name, 'address', address, 'release', release,
        'state', CASE WHEN asked_to_drain THEN 'draining' ELSE state END,
        'lease_left_ms', floor(1000 * extract(epoch FROM
            coalesce(renewed.until, lease_until) - clock_timestamp()))::bigint
    ) ORDER BY incarnation), '[]')::text FROM perdure_member LEFT JOIN renewed USING (incarnation)
), CASE WHEN version <> $1 THEN (SELECT array_agg(owner ORDER BY shard) FROM perdure_shard) END,
(SELECT count(*) FROM renewed),
(SELECT commit_number FROM renewed JOIN perdure_fence USING (incarnation))
FROM perdure_cluster
"""

VIEW = f"WITH renewed AS (SELECT 0::bigint AS incarnation, now() AS until LIMIT 0) {_VIEW}"

# All of it sees one moment, in which whoever is renewed here is a member. Locks its own row only.
RENEW = f"""
WITH renewed AS (
    UPDATE perdure_member SET lease_until = clock_timestamp() + make_interval(secs => $4)
    WHERE incarnation = $2 AND state = $3 RETURNING incarnation, lease_until AS until
) {_VIEW}
"""
