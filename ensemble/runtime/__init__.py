"""A published release becomes answers in this process: resolve, load, prove, hot-swap, fall back."""
