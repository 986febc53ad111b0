"""Policies: ordered rules about requests, tool calls and the content of answers. Pure."""
