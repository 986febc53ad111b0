"""car-rpc: one local AI engine for apps, spoken to over JSON-RPC 2.0 on stdin and stdout.

Importing this package imports nothing else: the process must claim its standard streams
before any other module is loaded (see :mod:`car_rpc.transport.claim`).
"""

__version__ = "0.1.0"
