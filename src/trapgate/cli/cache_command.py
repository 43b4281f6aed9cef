"""Says what `trapgate cache` can be asked."""

import click


@click.group()
def cache() -> None:
    """What trapgate keeps on disk: stencils, translated guest code, and the guest of trapgate exec."""


@cache.command("show")
def cache_show() -> int:
    """Where the caches are, and how large."""
    from trapgate.cli import cache as caches

    return caches.show()


@cache.command("clear")
@click.option("--stencils", is_flag=True, help="Only the stencils; they are built again at the next run.")
@click.option("--translations", is_flag=True, help="Only translated guest code.")
@click.option("--guests", is_flag=True, help="Only the kernel and the booted machines of trapgate exec.")
def cache_clear(**chosen: bool) -> int:
    """Delete what is cached: all of it, or one kind."""
    from trapgate.cli import cache as caches

    return caches.clear([name for name in chosen if chosen[name]] or caches.CLEARED)
