"""Checkpoints in the published layout: safetensors, sharded or not, and their JSON files."""

from gesso.checkpoint.hub import resolve
from gesso.checkpoint.read import load_network, read_config, read_generation_config
from gesso.checkpoint.write import save_checkpoint

__all__ = ["load_network", "read_config", "read_generation_config", "resolve", "save_checkpoint"]
