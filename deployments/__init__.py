"""Axon's moving half.

Ray Serve, HTTP and the terminal. Knows how bytes travel, knows no detection.
"""
