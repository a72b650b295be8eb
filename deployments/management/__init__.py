"""The application under /models: models, releases, training jobs and detectors of a tenant.

No face: its two deployments, `app.Manage` and `detectors.Detectors`, load Ray, so that
`deployments.app` imports them by file.
"""
