"""The application `axon`: it scores events over HTTP, and switches and reports on the layers.

There is no face: `app.Ingress` loads Ray, so `deployments.app` imports it by file. The terminal
imports `wire` and `verdict_wire` alone, which load neither Ray nor a model.
"""
