"""Objectives: the losses that training minimises, and their times, loss weights and pairs."""
