"""The application `axon`: it scores events over HTTP, and switches and reports on the layers.

The package exports nothing, because `app.Ingress` loads Ray: `deployments.app` imports it from its
module. The terminal imports only `wire` and `verdict_wire`, which load neither Ray nor a model.
"""
