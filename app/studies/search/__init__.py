"""Search for the settings that answer the validation rows best, with Optuna."""
