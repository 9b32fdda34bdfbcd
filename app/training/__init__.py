"""Fine-tuning: what learns, from which batches, and how a run goes on after an interruption."""
