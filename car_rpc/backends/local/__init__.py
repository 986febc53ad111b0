"""Local models, each in a worker process of its own: a crash is an event, not an outage."""
