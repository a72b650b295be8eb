"""Which release answers: canary rollout, shadow evaluation, automatic rollback."""
