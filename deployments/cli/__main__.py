"""`python -m deployments.cli`, the same as `axon`."""

from __future__ import annotations

from deployments.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
