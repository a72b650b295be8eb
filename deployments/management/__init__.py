"""The application under /models: models, releases, training jobs and detectors of a tenant.

This package has no face: its two deployments, `app.Manage` and `detectors.Detectors`, load Ray, so
`deployments.app` imports them by file.
"""
