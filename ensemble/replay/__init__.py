"""A verdict made once more.

The same event, release, layers and day, and what comes out otherwise (N-09).
"""
