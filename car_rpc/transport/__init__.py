"""Bytes in and out of the process. Importing this package imports nothing else."""
