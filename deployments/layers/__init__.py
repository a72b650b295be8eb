"""The detectors as Ray Serve deployments."""
