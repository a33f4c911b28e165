"""Engines of a bundle's graphs: what is built, where it lies, and whether it may be used."""
