"""Checkpoints in the published layout: safetensors, sharded or not, and their JSON files."""

from gesso.checkpoint.adapter import merge_adapter, read_adapter, save_adapter
from gesso.checkpoint.convert import convert_checkpoint
from gesso.checkpoint.hub import resolve
from gesso.checkpoint.read import load_network, read_config, read_generation_config
from gesso.checkpoint.write import save_checkpoint

__all__ = [
    "convert_checkpoint",
    "load_network",
    "merge_adapter",
    "read_adapter",
    "read_config",
    "read_generation_config",
    "resolve",
    "save_adapter",
    "save_checkpoint",
]
