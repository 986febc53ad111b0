"""Cassettes: what an app asked and was answered, so that its tests need no models.

All of it is pure but ``file``; the process that plays one is in ``host``.
"""
