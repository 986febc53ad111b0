"""What the event log costs, beside plainer ways to keep events."""
