"""Load finished runs: evaluate, encode, search and export them."""
