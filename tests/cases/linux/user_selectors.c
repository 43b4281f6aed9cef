/* Null selectors with an RPL in DS, ES and GS of a program: what an interrupt leaves of them. */
#include <stdio.h>
int main(void)
{
    unsigned short d, e, g;
    asm volatile("mov %0, %%es\n mov %0, %%ds\n mov %0, %%gs" : : "r"(3));
    for (volatile int i = 0; i < 300000000; i++)
        ;
    asm("mov %%es, %0" : "=r"(e));
    asm("mov %%ds, %0" : "=r"(d));
    asm("mov %%gs, %0" : "=r"(g));
    printf("es %x ds %x gs %x\n", e, d, g);
}
