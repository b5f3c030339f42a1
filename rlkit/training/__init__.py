"""The loop, the run folder, checkpoints, evaluation."""
