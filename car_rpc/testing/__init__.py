"""For tests, an app's own included: doubles, scripted models and the backends' conformance suite.

Nothing of car-rpc imports this package, and it imports nothing that a test framework brings.
"""

from car_rpc.testing.conformance import check_backend
from car_rpc.testing.doubles import FakeClock, MemorySink, scripted_call, scripted_model

__all__ = ["FakeClock", "MemorySink", "check_backend", "scripted_call", "scripted_model"]
