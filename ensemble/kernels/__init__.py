"""Algorithms on plain arrays; one method a file."""
