"""Files: atomic writes, safe reads, canonical JSON, tar archives."""
