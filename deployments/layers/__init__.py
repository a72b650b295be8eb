"""The detectors as Ray Serve deployments.

This package has no face, because its modules need Ray: `deployments.app` imports them by file.
"""
