"""Loads images and first registers: `plan_boot(read_image(path), BootOptions(...))`, then `load(plan, ram)`."""

from trapgate.boot.image import Image, ImageError, read_image
from trapgate.boot.loader import plan_boot
from trapgate.boot.plan import BootOptions, BootPlan, MapEntry, Module, Piece, load

__all__ = [
    "BootOptions",
    "BootPlan",
    "Image",
    "ImageError",
    "MapEntry",
    "Module",
    "Piece",
    "load",
    "plan_boot",
    "read_image",
]
