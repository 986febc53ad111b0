"""The vocabulary: every value that crosses a process boundary, as msgspec Structs.

This package is the single source of the specification. It does no I/O and knows no layer
above it.
"""
