"""The version, apart from the public names: whoever needs it imports nothing else."""

__version__ = "0.1.0"
