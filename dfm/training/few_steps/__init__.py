"""Students of few steps: distilled, straightened, consistent, or of average velocities."""
