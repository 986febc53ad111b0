"""JSON-RPC 2.0 as a pure state machine: bytes in, events and bytes out.

Nothing here knows a clock, a socket, a task or an operating system.
"""
