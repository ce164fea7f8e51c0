"""Data sets of other libraries: Hugging Face datasets and WebDataset shards, decoded once into one array file."""

from dfm.data.hubs.hugging_face import HuggingFace
from dfm.data.hubs.web_dataset import WebDataset

__all__ = ["HuggingFace", "WebDataset"]
