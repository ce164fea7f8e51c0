"""Pictures in files: grids of samples, and charts."""
