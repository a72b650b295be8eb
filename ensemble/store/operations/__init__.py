"""Operations on stored models: describe, delete, quarantine, archive."""
