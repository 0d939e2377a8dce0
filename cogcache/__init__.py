"""The artifact cache for video and ML pipelines."""

__version__ = "0.1.0"

__all__ = ["__version__"]
