"""Makes the hardware CPU: a vCPU on /dev/kvm, behind the same protocol as the software one."""
