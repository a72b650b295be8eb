"""Releases, and the pointer and aliases that refer to them."""
