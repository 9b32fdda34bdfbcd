"""Studies around training: data check, cross-validation, ablation."""
