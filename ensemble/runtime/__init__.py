"""A published release becomes answers in this process.

Resolve, load, prove, hot-swap, fall back.
"""
