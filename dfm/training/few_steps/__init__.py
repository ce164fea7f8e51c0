"""Few-step students: progressive distillation, reflow, consistency models and MeanFlow."""
