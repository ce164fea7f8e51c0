"""What training minimises: losses, and the times, weights and pairs that they take."""
