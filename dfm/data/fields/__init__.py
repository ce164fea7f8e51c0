"""Data drawn from laws known exactly, beside the toys: stationary Gaussian fields, and a table of unlike columns."""
