"""The half of Axon that moves bytes.

Ray Serve, HTTP and the terminal. Knows how bytes travel, knows no detection.
"""
