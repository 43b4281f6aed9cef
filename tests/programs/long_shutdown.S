# end: shutdown
# A triple fault: an exception while a double fault is delivered ends in shutdown (SDM vol. 3, 7.15, "#DF").
        .include "long.inc"

main:
        check   "up to here", [failures], 0
        lidt    [nothing]
        ud2

        .data
nothing: .word  0
        .quad   0
