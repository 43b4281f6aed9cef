"""trapgate is a virtual machine monitor for x86-64, made for debugging guests."""

__version__ = "0.1.0"  # the one place: the packages' metadata take it from here
