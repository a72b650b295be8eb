"""What each verb of the terminal does, one file a verb; `deployments.cli` only says how they are called."""
