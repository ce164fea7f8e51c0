"""What is around a command: its streams, the signals that reach it, and a disk that refuses."""
