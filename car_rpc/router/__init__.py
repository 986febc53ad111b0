"""Which model answers a request, and why. Pure: values in, a decision out."""
