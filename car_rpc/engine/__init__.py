"""One request's life: route, attempt, stream, record. Knows ports only, never JSON-RPC."""
