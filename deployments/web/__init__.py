"""HTTP for both applications: authentication, rate limits, errors, bodies and OpenAPI."""
