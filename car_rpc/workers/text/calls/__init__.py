"""Calls of tools in what a model says, in the form that its family writes them.

Each family is a generator that reads on from the marker that opens its calls; what it is made of
waits for as much output as it needs, so nothing depends on the pieces in which output comes.
"""
