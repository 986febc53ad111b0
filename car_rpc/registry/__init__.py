"""Which models there are and how they are found by id, name or capability."""
