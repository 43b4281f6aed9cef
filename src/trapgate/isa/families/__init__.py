"""Holds instruction bodies, a family a file. Each file offers `forms()`: (name, body) for every stencil it needs."""
