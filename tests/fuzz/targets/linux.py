"""Linux's bzImage: the setup header of every protocol, with an initrd and without."""

from fuzz.targets import booting
from fuzz.targets.booting import INITRD, LINE, LONG_LINE, chosen
from trapgate.boot import linux
from unit.boot import images

TARGET = booting.target(
    [
        chosen(images.bzimage(), 0, INITRD | LINE),
        chosen(images.bzimage(kernel=images.CODE, preferred=1 << 40), 1, INITRD | LINE | LONG_LINE, 5000),
        chosen(images.bzimage(kernel=images.CODE, version=0x0206, relocatable=0)),
        chosen(images.bzimage(kernel=images.CODE, version=0x020B, memory_size=0x8000), 5, INITRD),
    ],
    booting.broken("_place_kernel", linux),
    (b"HdrS\x0f\x02", b"HdrS\x06\x02", b"HdrS\x0a\x02"),
)
