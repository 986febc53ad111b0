"""Adapters that run models: each implements ``engine.ports.Backend`` and knows no other."""
