"""The event log: what happened, in one gapless order, kept on disk.

``store``, ``verification`` and ``deletion`` are the only ones that know the database. Importing
this package imports nothing else, so that the process starts without SQLite.
"""
