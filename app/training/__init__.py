"""Fine-tuning: the training loop, its optimizer and loss, checkpoints, and resuming a run."""
