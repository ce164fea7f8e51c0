"""Pictures as people have them: folders and zips of files, decoded once to one size."""

from dfm.data.pictures.image_folder import ImageFolder

__all__ = ["ImageFolder"]
