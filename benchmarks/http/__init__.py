"""What car-rpc's way over HTTP costs, beside the official client's on the same server."""
