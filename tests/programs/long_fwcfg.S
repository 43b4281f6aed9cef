# QEMU's firmware configuration device: signature, items, the file directory, and DMA in all its forms.
# qemu: yes
        .include "long.inc"

        .set    SELECTOR, 0x510
        .set    DATA, 0x511
        .set    DMA_HIGH, 0x514
        .set    DMA_LOW, 0x518

.macro select key                       # an item, from its first byte on
        mov     edx, SELECTOR
        mov     eax, \key
        out     dx, ax
        mov     edx, DATA
.endm

.macro next bytes                       # of the selected item, into RAX, the first one lowest
        xor     ebx, ebx
        xor     ecx, ecx
.Lnext\@:
        in      al, dx
        movzx   eax, al
        shl     rax, cl
        or      rbx, rax
        add     ecx, 8
        cmp     ecx, 8 * \bytes
        jb      .Lnext\@
        mov     rax, rbx
.endm

.macro transfer control, length, address  # by DMA; EAX is the control word afterwards
        mov     eax, \control
        bswap   eax
        mov     [request], eax
        mov     eax, \length
        bswap   eax
        mov     [request + 4], eax
        mov     eax, offset \address
        bswap   rax
        mov     [request + 8], rax
        xor     eax, eax
        mov     edx, DMA_HIGH
        out     dx, eax
        mov     eax, offset request
        bswap   eax
        mov     edx, DMA_LOW
        out     dx, eax
        mov     eax, [request]
        bswap   eax
.endm

main:
        select  0
        next    4
        check   "signature", rax, 0x554D4551
        next    2
        check   "nothing after the end", rax, 0
        select  1
        next    4
        check   "ID: by bytes and by DMA", rax, 3
        select  0
        next    2
        select  0
        next    4
        check   "selected again, from the beginning", rax, 0x554D4551
        select  0x4000
        next    4
        check   "bit 14 of a key means nothing", rax, 0x554D4551
        select  3
        next    8
        check   "size of RAM", rax, 64 << 20
        select  5
        next    2
        check   "number of CPUs", rax, 1
        select  0xF
        next    2
        check   "most CPUs", rax, 1
        select  0x3FFF
        next    4
        check   "no item", rax, 0
        select  0
        mov     al, 'x'
        out     dx, al
        next    4
        check   "a write to the data port does nothing", rax, 0x554D4551

        mov     edx, DMA_HIGH
        in      eax, dx
        check   "the DMA address has a signature", rax, 0x554D4551
        mov     edx, DMA_LOW
        in      eax, dx
        check   "in both halves", rax, 0x47464320
        mov     edx, DMA_HIGH + 1
        in      al, dx
        movzx   eax, al
        check   "byte by byte, too", rax, 0x45

        mov     rax, -1
        mov     [buffer], rax
        transfer 0x0000000A, 6, buffer  # select 0, read
        check   "select and read: done", rax, 0
        mov     rax, [buffer]
        check   "read, with zeros after the end", rax, 0xFFFF0000554D4551
        mov     rax, -1
        mov     [buffer], rax
        transfer 0x00000008, 0, buffer
        check   "select alone: done", rax, 0
        transfer 0x00000004, 1, buffer
        check   "skip: done", rax, 0
        transfer 0x00000002, 2, buffer
        check   "read on: done", rax, 0
        mov     rax, [buffer]
        check   "read on from there", rax, 0xFFFFFFFFFFFF4D45
        mov     edx, DATA
        next    1
        check   "the data port goes on, too", rax, 0x55
        mov     rax, -1
        mov     [buffer], rax
        transfer 0x3FFF000A, 8, buffer
        check   "no item: done", rax, 0
        mov     rax, [buffer]
        check   "no item reads as zeros", rax, 0
        transfer 0x00000018, 4, buffer
        check   "what cannot be written: error", rax, 1

        select  0x19
        next    4
        bswap   eax
        mov     r12d, eax               # number of files
        cmp     eax, 1
        setb    al
        movzx   eax, al
        check   "there are files", rax, 0
        xor     r13d, r13d              # key of the file that is searched
find:   transfer 0x00000002, 64, entry
        mov     rax, [entry + 8]
        cmp     rax, [e820]
        jne     3f
        cmp     byte ptr [entry + 16], 0
        jne     3f
        movzx   eax, word ptr [entry + 4]
        xchg    al, ah
        mov     r13d, eax
        mov     r14d, [entry]
        bswap   r14d
3:      dec     r12d
        jnz     find
        mov     eax, r13d
        cmp     eax, 0x20
        setb    al
        movzx   eax, al
        check   "etc/e820 is one of them", rax, 0
        mov     eax, r14d
        xor     edx, edx
        mov     ecx, 20
        div     ecx
        mov     eax, edx
        check   "its entries have 20 bytes each", rax, 0
        mov     r12d, r14d
        select  r13d
4:      next    8                       # the entry that begins at 0
        mov     r8, rax
        next    8
        mov     r9, rax
        next    4
        test    r8, r8
        jz      5f
        sub     r12d, 20
        jnz     4b
5:      check   "RAM", rax, 1
        mov     rax, r9
        check   "from 0 to its end", rax, 64 << 20
        finish

        .data
        .balign 16
request: .fill  16, 1, 0
buffer: .quad   0
entry:  .fill   64, 1, 0
        .balign 8
e820: .ascii  "etc/e820"
