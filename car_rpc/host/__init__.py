"""The only place that knows every layer: wiring, the session, the dispatch table, handlers."""
