"""The application `axon`: it scores events over HTTP, and switches and reports on the layers.

No face: `app.Ingress` loads Ray, so `deployments.app` imports it by file. The terminal imports
`wire` alone, which loads neither Ray nor a model.
"""
