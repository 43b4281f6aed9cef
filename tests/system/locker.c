/* A module that locks the bus whenever somebody writes to /proc/locker. */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>

static char *room;

static noinline void lock_it(int bit)
{
	set_bit(bit, (unsigned long *)(room + 61));
	set_bit(bit, (unsigned long *)(room + 64));
}

static ssize_t locker_write(struct file *file, const char __user *data, size_t size, loff_t *at)
{
	lock_it((int)size);
	return size;
}

static const struct proc_ops operations = {.proc_write = locker_write};

static int __init begin(void)
{
	room = kmalloc(4096, GFP_KERNEL);
	return room && proc_create("locker", 0666, NULL, &operations) ? 0 : -ENOMEM;
}

module_init(begin);
MODULE_DESCRIPTION("locks the bus");
MODULE_LICENSE("GPL");
