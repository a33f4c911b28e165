"""How images and videos become tokens of a prompt: one file for each token layout."""
