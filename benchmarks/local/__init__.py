"""How fast local models run: the process beside a bare loop over llama.cpp and other programs."""
