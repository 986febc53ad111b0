"""How fast the wire is, measured beside its peers: ``python -m benchmarks.wire``."""
