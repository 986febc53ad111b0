"""Models behind a server that speaks OpenAI's HTTP API: hosted ones, and those of this machine."""
