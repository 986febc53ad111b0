"""Brings the weights of models onto this machine."""
