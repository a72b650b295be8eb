"""Configuration: settings, tenants and trust; every file that an operator edits."""
