"""Weights in eight and four bits: formats, and the modules that hold them."""

from gesso.quant.formats import FP8, INT4, NVFP4, Format
from gesso.quant.modules import QuantExperts, QuantLinear

__all__ = ["FP8", "INT4", "NVFP4", "Format", "QuantExperts", "QuantLinear"]
