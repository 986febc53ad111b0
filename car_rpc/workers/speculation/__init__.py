"""Guessing what an answer goes on with, so that a model reads several of its tokens at once."""
