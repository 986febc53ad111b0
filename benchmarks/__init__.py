"""Measurements that people run; no test depends on what they show."""
