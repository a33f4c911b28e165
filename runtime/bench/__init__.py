"""What an answer costs here: time by part, cache bytes and memory, engines in turn."""
