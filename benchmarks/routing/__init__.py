"""How well models are chosen, beside what else is in use; `make bench-routing` runs it."""
