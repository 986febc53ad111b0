"""The tables of the event log, as they came to be."""

#: Statements by schema version; the first tuple leads from an empty file to version 1. A
#: released one never changes: the next change of the schema is the next tuple.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE events (
            seq INTEGER PRIMARY KEY,
            ts TEXT NOT NULL,
            session_id TEXT NOT NULL,
            trace_id TEXT,
            conversation_id TEXT,
            attempt INTEGER,
            type TEXT NOT NULL,
            data TEXT NOT NULL
        )
        """,
        # Every index ends in seq, the row id, so a filtered page needs no sorting.
        "CREATE INDEX events_by_trace ON events (trace_id) WHERE trace_id IS NOT NULL",
        """
        CREATE INDEX events_by_conversation ON events (conversation_id)
        WHERE conversation_id IS NOT NULL
        """,
        "CREATE INDEX events_by_type ON events (type)",
        "CREATE INDEX events_by_time ON events (ts)",
    ),
    (
        "ALTER TABLE events ADD COLUMN salt BLOB",
        "ALTER TABLE events ADD COLUMN hash BLOB",
        # What is left of deleted events, so that the chain goes through them.
        """
        CREATE TABLE tombstones (
            seq INTEGER PRIMARY KEY,
            ts TEXT NOT NULL,
            session_id TEXT NOT NULL,
            type TEXT NOT NULL,
            content_hash BLOB NOT NULL,
            hash BLOB NOT NULL
        )
        """,
        # 'start': the event before the first one that the chain covers. Those up to it were
        # written before there was a chain, or are deleted without a trace. 'head': the last event
        # that was ever written, so that a cut at the end shows.
        "CREATE TABLE chain (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL)",
        """
        INSERT INTO chain
        SELECT name, (SELECT coalesce(max(seq), 0) FROM events), zeroblob(32)
        FROM (SELECT 'start' AS name UNION SELECT 'head')
        """,
        "CREATE TABLE retention (id INTEGER PRIMARY KEY CHECK (id = 1), policy TEXT NOT NULL)",
    ),
    (
        # Which events name which of the files beside the database.
        """
        CREATE TABLE blob_uses (
            sha256 TEXT NOT NULL,
            seq INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            PRIMARY KEY (sha256, seq)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX blob_uses_by_seq ON blob_uses (seq)",
    ),
    (
        # Of the head: how far the times are from being in order, see `moments`.
        "ALTER TABLE chain ADD COLUMN latest TEXT",
        "ALTER TABLE chain ADD COLUMN skew_ms INTEGER",
        """
        UPDATE chain SET
            latest = (SELECT coalesce(max(ts), '') FROM events),
            skew_ms = (
                SELECT coalesce(
                    1 + CAST(max((julianday(latest) - julianday(ts)) * 86400000) AS INTEGER), 0
                )
                FROM (SELECT ts, max(ts) OVER (ORDER BY seq) AS latest FROM events)
            )
        WHERE name = 'head'
        """,
    ),
)
