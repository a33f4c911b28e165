"""An OpenAI-compatible server of one bundle: requests decode together, each with its budget."""
